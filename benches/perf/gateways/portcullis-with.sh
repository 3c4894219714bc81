# As portcullis.sh, with one more feature in use: with/$WITH.yaml.
. "$PERF/gateways/portcullis.sh"
start() {
    folder="$PERF/target/with-$WITH"
    mkdir -p "$folder"
    cp "$PERF/gateways/with/"*.luau "$folder"
    # A section that the feature writes anew takes the place of the usual one, which stands last.
    if grep -q '^log:' "$PERF/gateways/with/$WITH.yaml"; then
        sed '/^log:/,$d' "$PERF/gateways/portcullis.yaml"
    else
        cat "$PERF/gateways/portcullis.yaml"
    fi | cat - "$PERF/gateways/with/$WITH.yaml" >"$folder/portcullis.yaml"
    exec "$GATEWAY" serve --config "$folder/portcullis.yaml"
}
