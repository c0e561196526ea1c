// An ordinary Go HTTP server and client, built without cgo: Go's own resolver, its own system calls, no libc.
//
//	guest -listen :8080 [-upstream http://db:80/] [-delay 2s] [-after 1h -file F]
//	                                                serve; each answer says who called, and what the upstream said;
//	                                                F is made after that time
//	guest -get http://web:8080/                     print the answer
//	guest -lookup NAME                              print the addresses
//	guest -serve-datagrams :9000                    answer datagrams
//	guest -ask-datagrams time:9000                  ask with datagrams in each of Go's ways, and print the answers
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func get(url string) (string, error) {
	response, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return strings.TrimSpace(string(body)), err
}

func handler(upstream string, delay time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(delay)
		host, _ := os.Hostname()
		own := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		line := fmt.Sprintf("host=%s pid=%d peer=%s own=%s", host, os.Getpid(), r.RemoteAddr, own)
		if upstream != "" {
			body, err := get(upstream)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			line += " upstream=<" + body + ">"
		}
		fmt.Fprintln(w, line)
	}
}

// listener is the one that we were started with (sd_listen_fds(3)), or one of our own.
func listener(address string) (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") == "1" {
		return net.FileListener(os.NewFile(3, "listener"))
	}
	return net.Listen("tcp", address)
}

func main() {
	listen := flag.String("listen", "", "address to serve on")
	upstream := flag.String("upstream", "", "URL to ask before each answer")
	delay := flag.Duration("delay", 0, "how long to sleep before each answer")
	after := flag.Duration("after", 0, "when to make a file")
	file := flag.String("file", "", "the file to make")
	url := flag.String("get", "", "URL to get and print")
	lookup := flag.String("lookup", "", "name to look up and print")
	serve := flag.String("serve-datagrams", "", "address to answer datagrams on")
	ask := flag.String("ask-datagrams", "", "target to ask with datagrams")
	flag.Parse()
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "guest:", err)
			os.Exit(1)
		}
	}
	if *lookup != "" {
		addresses, err := net.LookupHost(*lookup)
		fail(err)
		fmt.Println(strings.Join(addresses, "\n"))
	}
	if *url != "" {
		body, err := get(*url)
		fail(err)
		fmt.Println(body)
	}
	if *ask != "" {
		fail(askDatagrams(*ask))
	}
	if *serve != "" {
		fail(serveDatagrams(*serve))
	}
	if *listen != "" {
		if *after > 0 {
			time.AfterFunc(*after, func() { os.WriteFile(*file, nil, 0o600) })
		}
		listener, err := listener(*listen)
		fail(err)
		fail(http.Serve(listener, handler(*upstream, *delay)))
	}
}
