package main

import (
	"fmt"
	"net"
	"os"
	"time"
)

// serveDatagrams answers datagrams with who asked.
func serveDatagrams(address string) error {
	server, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	buffer := make([]byte, 2048)
	for {
		_, peer, err := server.ReadFrom(buffer)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("host=%s pid=%d peer=%s own=%s\n", host, os.Getpid(), peer, server.LocalAddr())
		if _, err := server.WriteTo([]byte(line), peer); err != nil {
			return err
		}
	}
}

// askDatagrams asks in each of Go's ways: connected, from a socket that is bound to nothing in particular, and with a message.
func askDatagrams(target string) error {
	address, err := net.ResolveUDPAddr("udp", target)
	if err != nil {
		return err
	}
	ways := []struct {
		name string
		send func() (*net.UDPConn, error)
	}{
		{"dial", func() (*net.UDPConn, error) {
			client, err := net.DialUDP("udp", nil, address)
			if err == nil {
				_, err = client.Write([]byte("hello\n"))
			}
			return client, err
		}},
		{"write-to", func() (*net.UDPConn, error) {
			client, err := net.ListenUDP("udp", nil)
			if err == nil {
				_, err = client.WriteTo([]byte("hello\n"), address)
			}
			return client, err
		}},
		{"message", func() (*net.UDPConn, error) {
			client, err := net.ListenUDP("udp4", &net.UDPAddr{})
			if err == nil {
				_, _, err = client.WriteMsgUDP([]byte("hello\n"), nil, address)
			}
			return client, err
		}},
	}
	buffer := make([]byte, 2048)
	for _, way := range ways {
		client, err := way.send()
		if err != nil {
			return err
		}
		client.SetReadDeadline(time.Now().Add(time.Minute))
		count, from, err := client.ReadFromUDP(buffer)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s from=%s\n", way.name, string(buffer[:count-1]), from)
		client.Close()
	}
	return nil
}
