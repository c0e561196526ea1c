import com.sun.net.httpserver.HttpServer;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.UnknownHostException;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/**
 * The JDK's own HTTP server on the wildcard address. Usage: Server PORT [UPSTREAM-URL].
 *
 * With the properties "after", in milliseconds, and "file" it makes that file after that time.
 */
public final class Server {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        String upstream = arguments.length > 1 ? arguments[1] : null;
        HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
        server.createContext("/", exchange -> {
            StringBuilder line = new StringBuilder();
            line.append("host=").append(ownName());
            line.append(" pid=").append(ProcessHandle.current().pid());
            line.append(" peer=").append(text(exchange.getRemoteAddress()));
            line.append(" own=").append(text(exchange.getLocalAddress()));
            if (upstream != null) {
                line.append(" upstream=<").append(get(upstream)).append(">");
            }
            byte[] body = line.append("\n").toString().getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length);
            try (OutputStream out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        server.start();
        Long after = Long.getLong("after");
        if (after != null) {
            ScheduledExecutorService timers = Executors.newScheduledThreadPool(1);
            timers.schedule(() -> Files.createFile(Path.of(System.getProperty("file"))), after, TimeUnit.MILLISECONDS);
        }
    }

    /** A machine's own name need not resolve; a host's does. */
    private static String ownName() {
        try {
            return InetAddress.getLocalHost().getHostName();
        } catch (UnknownHostException unknown) {
            return "?";
        }
    }

    private static String text(InetSocketAddress address) {
        return address.getAddress().getHostAddress() + ":" + address.getPort();
    }

    private static String get(String url) {
        try {
            HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
            HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
            return answer.body().strip();
        } catch (Exception failure) {
            return failure.toString();
        }
    }
}
