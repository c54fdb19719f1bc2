#!/bin/sh
# deploy.sh TAG: make releases/TAG the current release, unpacked from uploads/TAG.tar.gz if it is
# not there yet. Exit status 1: it did not start, and the release before it serves on.
set -eu
tag=${1:?which release?}
cd /srv/app
exec 9>deploy.lock
flock 9 # one deploy at a time

switch() { # in one step; ln -sfn alone has a moment without a link
    ln -sfn "$1" current.new
    mv -T current.new current
}

if [ ! -d "releases/$tag" ]; then
    new=$(mktemp -d releases/.new.XXXXXX)
    tar -xzf "uploads/$tag.tar.gz" -C "$new" || { rm -r "$new"; exit 1; }
    chmod 755 "$new"
    mv -T "$new" "releases/$tag"
fi
previous=$(readlink current) || previous=
switch "releases/$tag"
if [ -z "$previous" ]; then
    echo "$tag is the first release; start it now"
elif venv/bin/python -m endless_py reload --wait-drained app.pid; then
    echo "$tag serves"
else
    switch "$previous"
    echo "$tag was given up; back to $previous" >&2
    exit 1
fi
