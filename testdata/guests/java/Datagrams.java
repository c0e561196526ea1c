import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetSocketAddress;

/**
 * Asks with datagrams in each of Java's ways, and prints the answers: java Datagrams HOST PORT.
 *
 * A DatagramSocket is bound to the wildcard, of both families, when it is made.
 */
public final class Datagrams {
    private static String ask(DatagramSocket socket, InetSocketAddress target) throws Exception {
        byte[] question = "hello\n".getBytes();
        if (socket.isConnected()) {
            socket.send(new DatagramPacket(question, question.length));
        } else {
            socket.send(new DatagramPacket(question, question.length, target));
        }
        DatagramPacket answer = new DatagramPacket(new byte[2048], 2048);
        socket.receive(answer);
        return new String(answer.getData(), 0, answer.getLength()).trim() + " from="
                + answer.getAddress().getHostAddress() + ":" + answer.getPort();
    }

    public static void main(String[] arguments) throws Exception {
        InetSocketAddress target = new InetSocketAddress(arguments[0], Integer.parseInt(arguments[1]));
        try (DatagramSocket socket = new DatagramSocket()) {
            socket.setSoTimeout(60000);
            int port = socket.getLocalPort();
            System.out.println("send: " + ask(socket, target));
            socket.connect(target);
            System.out.println("connect: " + ask(socket, target));
            socket.disconnect();
            System.out.println("disconnect: " + ask(socket, target));
            System.out.println("same port: " + (socket.getLocalPort() == port));
        }
    }
}
