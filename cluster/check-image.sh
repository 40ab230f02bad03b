#!/usr/bin/env bash
# Builds the image without a container engine, in a folder that is removed after, and runs the whole job in it.
#
#   cluster/check-image.sh [gpu|cpu]     DEVICE of the Dockerfile; its default if left out
#
# The steps are the Dockerfile's own, read from it, with the image's absolute paths below the folder. The one exception
# is a RUN with apt-get, which would change this machine: its packages are looked up here instead. What comes after USER
# runs as that user if the caller is root, and as the caller otherwise. Needs Debian, the Python version of the base
# (PYTHON, or python3.11), a package index, and 20 GB below TMPDIR. Ends with 1 if a step fails; the last line names it.
set -Eeuo pipefail
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
checkout=$(cd "$(dirname "$0")/.." && pwd)
python=$("${PYTHON:-python3.11}" -c 'import os, sys; print(os.path.realpath(sys.executable))')
root=$(mktemp -d)
chmod 755 "$root"
mkdir --mode 1777 "$root/home" "$root/tmp"
step="reading $checkout/Dockerfile"
trap 'rm -rf "$root"' EXIT
trap 'echo "check-image: failed: $step" >&2' ERR
declare -A given
[ $# -eq 0 ] || given[DEVICE]=$1

# The Dockerfile's instructions, one a line: without comments, continued lines joined.
instructions() {
    sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' "$checkout/Dockerfile" |
        sed -e ':next' -e '/\\$/{' -e 'N' -e 's/\\\n//' -e 'b next' -e '}'
}

# A path of the image as one of this machine.
placed() { if [[ $1 == /* ]]; then echo "$stage$1"; else echo "$folder/$1"; fi; }

# The words of a JSON list of words without blanks in them.
words_of() { tr -d '[]",' <<< "$1"; }

# Runs a command as the image would: in its working folder, with its environment, as its user.
run() {
    local become=()
    [ -z "$user" ] || [ "$(id -u)" != 0 ] || become=(setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups)
    (cd "$folder" && HOME=$root/home RAY_TMPDIR=$root/tmp "${become[@]}" "$@")
}

do_arg() {
    local name=${1%%=*}
    if [[ $1 == *=* && -z ${given[$name]:-} ]]; then given[$name]=${1#*=}; fi
    export "$name=${given[$name]:-}"
}

# A stage begins with the base's Python and pip, and nothing else.
do_from() {
    local base here
    base=$(eval "echo ${1%% *}")
    here=$("$python" -c 'import platform; print(platform.python_version())')
    [[ $base == python:"${here%.*}".* ]] || { step="FROM $base, and $python is $here: PYTHON names another"; return 1; }
    echo "check-image: Python $here in place of $base"
    stage=$root/stages/last
    if [[ $1 == *" AS "* ]]; then stage=$root/stages/${1##* AS }; fi
    folder=$stage user="" shell=(/bin/sh -c)
    mkdir -p "$stage/usr/local/bin"
    ln -s "$python" "$stage/usr/local/bin/python"
    printf '#!/bin/sh\nexec python -m pip "$@"\n' > "$stage/usr/local/bin/pip"
    chmod 755 "$stage/usr/local/bin/pip"
    PATH=$stage/usr/local/bin:$PATH
}

do_env() {
    local pair value
    for pair in $1; do
        value=${pair#*=}
        if [[ $value == /* ]]; then value=$stage$value; fi
        eval "export ${pair%%=*}=\"$value\""
    done
}

do_workdir() {
    folder=$(placed "$1")
    mkdir -p "$folder"
}

# Folders by their content, as COPY does; files into a folder, which is all that the Dockerfile asks for.
do_copy() {
    local from=$checkout words target source
    if [[ $1 == --from=* ]]; then from=${1%% *} from=$root/stages/${from#--from=}; fi
    read -ra words <<< "${1#--from=* }"
    target=$(placed "${words[-1]}")
    mkdir -p "$target"
    for source in "${words[@]::${#words[@]}-1}"; do
        if [ -d "$from/$source" ]; then source=$source/.; fi
        if [ "$from" = "$checkout" ]; then cp -r "$from/$source" "$target"; else cp -r --link "$from/$source" "$target"; fi
    done
}

do_run() {
    local package
    if [[ $1 != *apt-get* ]]; then run "${shell[@]}" "$1"; return; fi
    while read -r package; do
        # shellcheck disable=SC2053  # the version is a pattern
        [[ $(dpkg-query --show --showformat '${Version}' "${package%%=*}") == ${package#*=} ]] ||
            echo "check-image: another version here: $package"
    done < <(grep -oE '[a-z0-9.+-]+=[0-9][^ ]*' <<< "$1")
}

while IFS=" " read -r instruction rest; do
    step="$instruction $rest"
    echo "check-image: ${step:0:100}"
    case $instruction in
        ARG) do_arg "$rest" ;;
        FROM) do_from "$rest" ;;
        SHELL) read -ra shell <<< "$(words_of "$rest")" ;;
        ENV) do_env "$rest" ;;
        WORKDIR) do_workdir "$rest" ;;
        COPY) do_copy "$rest" ;;
        RUN) do_run "$rest" ;;
        USER) user=$rest ;;
        HEALTHCHECK) read -ra health <<< "$(words_of "${rest##*CMD }")" ;;
        CMD) read -ra command <<< "$(words_of "$rest")" ;;
        LABEL) ;;
        *) step="$step: not an instruction that this script knows"; false ;;
    esac
done < <(instructions)

for last in "${health[*]}" "${command[*]}" "python -m jobs.pipeline --workspace $root/home/workspace --rows 500"; do
    step=$last
    echo "check-image: $last"
    run bash -c "$last"
done
echo "check-image: DEVICE=${given[DEVICE]}: every step passed"
