# The other scripts source this file. It installs missing Debian packages and python-mbedtls.

missing=()

# need PACKAGE COMMAND...: notes the package unless the command succeeds.
need() {
    local package=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        missing+=("$package")
    fi
}

can_compile() {
    echo '#include <stdlib.h>' | cc -x c -E -
}

# Notes the packages that building the workspace needs.
need_to_build() {
    if ! command -v cargo >/dev/null; then
        echo "$0: Rust 1.88 or newer is missing: install it with rustup, then try again" >&2
        exit 1
    fi
    need gcc cc --version
    need libc6-dev can_compile
    need pkg-config pkg-config --version
    need libssl-dev pkg-config --exists 'openssl >= 1.1.1'
}

# Notes the packages that scripts/sctp-vm needs.
need_for_vm() {
    need qemu-system-x86 qemu-system-x86_64 --version
    need busybox-static busybox --list
    need cpio cpio --version
    need kmod modprobe --version
    need xz-utils xz --version
}

has_sctp_headers() {
    echo '#include <netinet/sctp.h>' | cc -x c -E -
}

# Notes the packages that scripts/openssl-sctp needs in addition to those that build the workspace.
need_for_openssl() {
    need make make --version
    need perl perl -MFindBin -MPod::Usage -e 1
    need libsctp-dev has_sctp_headers
}

# debian_archive PACKAGE,PACKAGE...: prints the path of an archive with a minimal Debian of this system's release
# that has these packages. mmdebstrap makes it the first time, and it stays in the user's cache directory.
debian_archive() {
    local names=$1 cache=${XDG_CACHE_HOME:-$HOME/.cache}/peeloff release archive unfinished
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    archive=$cache/debian-$release-$(cksum <<<"$names" | cut -d ' ' -f 1).tar
    if [ ! -e "$archive" ]; then
        mkdir -p "$cache"
        unfinished=$(mktemp -d "$cache/new-XXXXXX")
        mmdebstrap --variant=minbase --include="$names" "$release" "$unfinished/debian.tar" >&2 || return
        mv "$unfinished/debian.tar" "$archive"
        rmdir "$unfinished"
    fi
    echo "$archive"
}

# Installs the packages that were noted.
install_missing() {
    if [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        echo "$0: this system has no apt-get; install these first (Debian's names): ${missing[*]}" >&2
        exit 1
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "$0: this system has no sudo; run this as root first: apt-get install ${missing[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    echo "== installing ${missing[*]}"
    if ! { "${as_root[@]}" apt-get update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; }; then
        echo "$0: apt-get failed; install these manually, then try again: ${missing[*]}" >&2
        exit 1
    fi
    missing=()
}

# python_environment NAME PACKAGE==VERSION CODE: makes environment the path of a Python environment in the target
# directory that has this package, and installs it there if the Python code fails. Systems do not let pip write into
# their own Python.
python_environment() {
    local target
    target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    environment=$target/$1
    if ! "$environment/bin/python" -c "$3" 2>/dev/null; then
        echo "== installing $2 into $environment"
        python3 -m venv --clear "$environment" &&
            "$environment/bin/pip" install -q --disable-pip-version-check "$2" &&
            "$environment/bin/python" -c "$3"
    fi
}

# Finds the Python with python-mbedtls, for the tests with Mbed TLS.
find_python() {
    local environment
    python_environment python python-mbedtls==2.10.1 'import mbedtls.tls' || return
    export PEELOFF_PYTHON=$environment/bin/python
}

# check_spelling: runs codespell over the tree. Each version knows more misspellings than the one before, so it is
# always the same version, whichever the system has. What it skips and which words it knows is in .codespellrc.
check_spelling() {
    local environment
    python_environment codespell codespell==2.4.3 \
        'from importlib.metadata import version; assert version("codespell") == "2.4.3"' || return
    "$environment/bin/codespell"
}
