# Portkey's open gateway (Node): the provider named in headers; no key check, no cost. Too slow for 1,000 a second.
PORT=9210
RATE=100
SSE_CONC=20
HEADERS=("x-portkey-provider: openai" "x-portkey-custom-host: http://127.0.0.1:$MOCK_PORT/v1" "authorization: Bearer sk-mock")
start() {
    NODE_ENV=production exec node --require "$PERF/peers/loopback.cjs" \
        "$PEERS/portkey/node_modules/@portkey-ai/gateway/build/start-server.js" --headless --port=$PORT
}
