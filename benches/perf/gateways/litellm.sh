# LiteLLM's proxy (Python), one worker: usage and cost are on, the key check needs its database and is off.
PORT=9211
RATE=30
SSE_CONC=4
HEADERS=("authorization: Bearer sk-mock")
start() {
    export LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_TELEMETRY=False LITELLM_LOG=ERROR LITELLM_MODE=PRODUCTION NO_DOCS=True DISABLE_ADMIN_UI=True
    exec "$PEERS/litellm/bin/litellm" --config "$PERF/peers/litellm.yaml" --host 127.0.0.1 --port $PORT --num_workers 1 --telemetry False
}
