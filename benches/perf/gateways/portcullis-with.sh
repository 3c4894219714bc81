# As portcullis.sh, with more in use: with/$WITH.yaml, or what with/$WITH.py writes.
. "$PERF/gateways/portcullis.sh"
if [ "$WITH" = tls ]; then SCHEME=https; fi
start() {
    cp -r "$PERF/gateways/with/." "$RUN"
    if [ -f "$RUN/$WITH.py" ]; then python3 "$RUN/$WITH.py" <"$PERF/gateways/portcullis.yaml" >"$RUN/$WITH.yaml"; fi
    # A section that the feature writes takes the place of the usual one.
    awk 'NR == FNR { if (/^[a-z_]+:/) { split($0, part, ":"); anew[part[1]] = 1 } next }
        /^[a-z_]+:/ { split($0, part, ":"); skip = part[1] in anew }
        !skip' "$RUN/$WITH.yaml" "$PERF/gateways/portcullis.yaml" | cat - "$RUN/$WITH.yaml" >"$RUN/portcullis.yaml"
    exec "$GATEWAY" serve --config "$RUN/portcullis.yaml"
}
