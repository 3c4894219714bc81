# As portcullis.sh, with the answer cache on.
. "$PERF/gateways/portcullis.sh"
start() {
    { cat "$PERF/gateways/portcullis.yaml"; echo 'cache: { exact: { ttl: 1h } }'; } >"$PERF/target/portcullis-cached.yaml"
    exec "$GATEWAY" serve --config "$PERF/target/portcullis-cached.yaml"
}
