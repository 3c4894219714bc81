# The reference with TLS in, and HTTP/2 for clients that ask for it.
. "$PERF/gateways/hyper.sh"
SCHEME=https
export PT_CERT=$TLS_CERT PT_KEY=$TLS_KEY
