# HAProxy as a plain reverse proxy: reads no body, knows no model, checks no key, logs nothing.
PORT=9202
start() { debian haproxy -db -f "$PERF/peers/haproxy.cfg"; }
. "$PERF/peers/debian.sh"
