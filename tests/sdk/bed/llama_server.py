"""Runs llama.cpp's own HTTP server on one model until it is told to stop.

Usage: python llama_server.py MODEL PORT chat|embedding
"""

import sys
import threading

import xllamacpp


def main(model: str, port: str, purpose: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_ctx = 16_384
    params.n_parallel = 2
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.use_jinja = True
    params.endpoint_metrics = True
    params.model_alias = {"tiny-random"}
    if purpose == "embedding":
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
