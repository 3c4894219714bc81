# vLLM's router (Rust): parses the body and balances over workers of one model; no key, no usage, no cost.
PORT=9213
start() {
    export TOKIO_WORKER_THREADS=1
    exec "$PEERS/vllm-router/bin/vllm-router" --host 127.0.0.1 --port $PORT --worker-urls "http://127.0.0.1:$MOCK_PORT" \
        --policy round_robin --disable-retries --log-level error --prometheus-host 127.0.0.1 --prometheus-port 9313
}
