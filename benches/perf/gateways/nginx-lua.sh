# nginx with Lua that decodes the body and picks the upstream by the model's name: no key, no usage, no cost.
PORT=9203
start() {
    ln -sfn "$PEERS/debian/usr/lib/nginx/modules" "$RUN/modules"
    mkdir -p "$RUN/lua"
    ln -sfn "$PEERS/debian/usr/share/lua/5.1" "$RUN/lua/share"
    ln -sfn "$PEERS/debian/usr/lib/x86_64-linux-gnu/lua/5.1" "$RUN/lua/lib"
    # Its search paths are relative.
    cd "$RUN"
    debian nginx -p "$RUN" -c "$PERF/peers/nginx-lua.conf"
}
. "$PERF/peers/debian.sh"
