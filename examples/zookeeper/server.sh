#!/bin/sh
# The server with the number $ID; what it keeps is in $DATA/zk$ID.
set -eu
config=$PWD/zoo.cfg
mkdir -p "$DATA/zk$ID/state"
cd "$DATA/zk$ID"
echo "$ID" >state/myid
exec java -Xmx128m -cp /usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar \
    org.apache.zookeeper.server.quorum.QuorumPeerMain "$config"
