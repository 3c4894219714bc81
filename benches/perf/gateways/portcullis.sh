# The gateway as an operator would run it: keys, prices, access log and metrics on; one worker like the pass-through.
export PORT=$((9220 + 50 * SIDE)) ADMIN_PORT=$((9221 + 50 * SIDE))
HEADERS=("authorization: Bearer sk-bench-0123456789abcdef0123456789abcdef" "x-api-key: sk-bench-0123456789abcdef0123456789abcdef")
start() { exec "$GATEWAY" serve --config "$PERF/gateways/portcullis.yaml"; }
