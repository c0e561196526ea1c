"""The shop: GET / counts a visit in redis, POST /tea orders one from the worker and waits for it."""

import http.server

import shop


class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        visit = shop.Redis().call("INCR", "visits")
        cents = int(shop.sql("SELECT cents FROM prices WHERE item = 'tea'"))
        self.answer(f"Welcome, visit {visit}. Tea is {cents // 100}.{cents % 100:02} today.\n")

    def do_POST(self):
        redis, item = shop.Redis(), self.path.strip("/")
        ticket = redis.call("INCR", "tickets")
        redis.call("LPUSH", "orders", f"{ticket} {item}")
        _, number = redis.call("BLPOP", f"done:{ticket}", 60)
        self.answer(f"Order {number}: {item}.\n")

    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("", 8000), Shop).serve_forever()
