#!/bin/sh
# The member that this host is; what it keeps is in $DATA/NAME.
set -eu
name=$(uname -n)
mkdir -p "$DATA"
exec etcd --name "$name" --data-dir "$DATA/$name" \
    --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls "http://$name:2379" \
    --listen-peer-urls http://0.0.0.0:2380 --initial-advertise-peer-urls "http://$name:2380" \
    --initial-cluster etcd1=http://etcd1:2380,etcd2=http://etcd2:2380,etcd3=http://etcd3:2380 \
    --initial-cluster-token imsup-example
