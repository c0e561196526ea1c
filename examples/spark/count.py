"""Counts words over eight partitions, and says on which hosts that was done."""

import socket
import time

from pyspark.sql import SparkSession

TEXT = "to be or not to be that is the question"
PARTITIONS = 8

spark = SparkSession.builder.appName("count").config("spark.ui.enabled", "false").getOrCreate()
context = spark.sparkContext


def words(lines):
    host = socket.gethostname()
    # Long enough for the other worker to get its share.
    time.sleep(0.5)
    for line in lines:
        for word in line.split():
            yield word, (1, {host})


# Both workers' executors, and the driver itself.
while context._jsc.sc().getExecutorMemoryStatus().size() < 3:
    time.sleep(0.1)

counted = (
    context.parallelize([TEXT] * (100 * PARTITIONS), PARTITIONS)
    .mapPartitions(words)
    .reduceByKey(lambda a, b: (a[0] + b[0], a[1] | b[1]))
    .collect()
)
for word, (count, _) in sorted(counted):
    print(f"{word} {count}")
hosts = sorted(set().union(*(hosts for _, (_, hosts) in counted)))
print("counted on", " ".join(hosts), flush=True)
spark.stop()
