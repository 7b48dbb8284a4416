#!/bin/sh
# Makes what compose.yaml needs: an authority, certificates of node, probe and gateway, and a key of the gateway.
#
#   certificates.sh              all of it; what is there stays, and certificates are renewed
#   certificates.sh app NAME     a client's certificate in ./secrets, for an app on another machine
#
# The folders, of this machine or of volumes: AUTHORITY, NODE, GATEWAY, SECRETS; OWNER reads the last three but SECRETS.
set -eu
umask 077
authority=${AUTHORITY:-/authority} node=${NODE:-/node} gateway=${GATEWAY:-/gateway} secrets=${SECRETS:-/secrets}
owner=${OWNER:-65532:65532}

if [ "${1:-}" = app ]; then
  name=${2:?certificates.sh app NAME}
  hybrid-llm certs issue "$authority" --name "$name" --kind client
  for file in ca.pem "$name.pem" "$name.key"; do cp "$authority/$file" "$secrets/"; done
  exit
fi

[ -e "$authority/ca.key" ] || hybrid-llm certs init "$authority"
set -- --host node --host 127.0.0.1
for host in ${NODE_HOSTS:-localhost}; do set -- "$@" --host "$host"; done
hybrid-llm certs issue "$authority" --name node --kind node "$@"
hybrid-llm certs issue "$authority" --name probe --kind client
hybrid-llm certs issue "$authority" --name gateway --kind client

hand_over() {  # DIR FILE...: each file appears whole, readable by its owner alone
  folder=$1
  shift
  for file; do
    cp "$authority/$file" "$folder/.$file"
    chown "$owner" "$folder/.$file"
    mv "$folder/.$file" "$folder/$file"
  done
}
hand_over "$node" ca.pem node.key node.pem probe.key probe.pem
hand_over "$gateway" ca.pem gateway.key gateway.pem

if [ ! -e "$gateway/keys.json" ]; then
  hybrid-llm gateway --keys "$authority/keys.json" --new-key compose > "$secrets/key"
  hand_over "$gateway" keys.json
fi
