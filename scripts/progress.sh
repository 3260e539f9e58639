# shellcheck shell=sh
# Progress of a build, for the other scripts to source. On a terminal Cargo shows its own progress
# bar; elsewhere this prints how many crates are compiled, every five seconds.

# build_with_progress ARGUMENTS… passes its arguments to `cargo build`.
build_with_progress() {
    if [ -t 2 ]; then
        cargo build "$@"
        return
    fi
    total=$(cargo tree --locked --prefix none --edges normal,build --package shop-supervisor \
        2>/dev/null | awk '{ print $1, $2 }' | sort -u | wc -l)
    { cargo build "$@" 2>&1 && echo 'build status 0' || echo 'build status 1'; } |
        awk -v total="$total" '
            function now() { "date +%s" | getline seconds; close("date +%s"); return seconds }
            BEGIN { start = last = now() }
            /^ *Compiling / {
                count++
                if (now() - last >= 5) {
                    last = seconds
                    printf "building: %d%s crates, %d s\n", count,
                        (count < total ? " of about " total : ""), last - start
                    fflush()
                }
                next
            }
            /^build status / { status = $3; next }
            { print; fflush() }
            END { exit status }' >&2
}
