#!/usr/bin/env bash
# Usage: envs/link-profiles.sh PROFILES FOLDER — link every profile into snakemake's folder of profiles.
#
# A profile of that name which is no link is somebody's own: it stays, and the full path still works.
set -euo pipefail
profiles=$1
folder=$2
mkdir -p "$folder"
status=0
for profile in "$profiles"/*/; do
    profile=${profile%/}
    name=$(basename "$profile")
    link=$folder/$name
    if [ -e "$link" ] && [ ! -L "$link" ]; then
        echo "$link is a profile of your own and stays; here use: --profile profiles/$name" >&2
        status=1
        continue
    fi
    ln -sfn "$profile" "$link"
    echo "snakemake --profile $name    now means $profile"
done
exit $status
