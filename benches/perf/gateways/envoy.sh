# Envoy as a plain reverse proxy with an access log: reads no body, knows no model, checks no key.
PORT=9205
start() {
    cd "$RUN"
    exec "$PEERS"/envoy/lib/python3*/site-packages/envoy/_bin/envoy -c "$PERF/peers/envoy.yaml" --concurrency 1 --log-level error --disable-hot-restart
}
