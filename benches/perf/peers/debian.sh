# Runs a program out of the Debian packages that were unpacked, not installed.
debian() {
    program=$1; shift
    export LD_LIBRARY_PATH="$PEERS/debian/usr/lib/x86_64-linux-gnu:$PEERS/debian/lib/x86_64-linux-gnu"
    exec "$PEERS/debian/usr/sbin/$program" "$@"
}
