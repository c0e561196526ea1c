"""Nobody connects to the worker: it waits for orders at a list in redis, and stores them."""

import shop

redis = shop.Redis()
while True:
    _, order = redis.call("BLPOP", "orders", 0)
    ticket, item = order.split()
    if not item.isalpha():
        continue
    number = shop.sql(f"INSERT INTO orders (item) VALUES ('{item}') RETURNING id")
    redis.call("RPUSH", f"done:{ticket}", number)
