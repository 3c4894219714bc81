# nginx as a plain reverse proxy: reads no body, knows no model, checks no key.
PORT=9201
start() { debian nginx -p "$RUN" -c "$PERF/peers/nginx.conf"; }
. "$PERF/peers/debian.sh"
