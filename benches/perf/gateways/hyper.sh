# The reference: the bare hyper pass-through.
PORT=$((9200 + 50 * SIDE))
start() { PT_LISTEN=127.0.0.1:$PORT PT_UPSTREAM=127.0.0.1:$MOCK_PORT exec "$BIN/passthrough"; }
