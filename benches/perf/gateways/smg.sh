# Shepherd Model Gateway (Rust): an OpenAI back end behind its router; parses the body, keeps no history.
PORT=9212
start() {
    export TOKIO_WORKER_THREADS=1
    exec "$PEERS/smg/bin/smg" launch --host 127.0.0.1 --port $PORT --backend openai --worker-urls "http://127.0.0.1:$MOCK_PORT" \
        --policy round_robin --history-backend none --disable-retries --log-level error --prometheus-host 127.0.0.1 --prometheus-port 9312
}
