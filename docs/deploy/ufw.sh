#!/bin/sh
# Firewall of a machine that runs LLMRTC behind nginx, for ufw. nftables.nft says the same; use one of them.
set -eu

# media.peer.udp_port_range of llmrtc.toml.
ICE=10000:20000
# Not here: 8787 (the server; nginx reaches it over loopback) and 8788 (for operators on this machine).

ufw default deny incoming
ufw default deny routed
ufw default allow outgoing
ufw limit 22/tcp comment 'ssh'
ufw allow 80/tcp comment 'http, to https'
ufw allow 443/tcp comment 'https'
ufw allow "$ICE/udp" comment 'llmrtc media'
ufw --force enable
