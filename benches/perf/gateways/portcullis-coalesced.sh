# As portcullis.sh, with answers shared while they stream and never kept: the mock's end with `stop`.
. "$PERF/gateways/portcullis.sh"
start() {
    { cat "$PERF/gateways/portcullis.yaml"; echo 'cache: { exact: { finishes: [length] } }'; } >"$PERF/target/portcullis-coalesced.yaml"
    exec "$GATEWAY" serve --config "$PERF/target/portcullis-coalesced.yaml"
}
