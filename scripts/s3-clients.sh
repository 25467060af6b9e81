#!/usr/bin/env bash
# Installs the S3 clients that the sidecar is tested with (boto3, pyarrow and the aws command line from PyPI, the AWS SDK for JavaScript from
# npm), once for each content of their lists, and prints the folder. Needs Python with venv, and Node with npm for the first time.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SOURCE=sidecar/tests/s3_clients
folder=$BRAINY_CACHE/s3-clients-$(cat "$SOURCE/requirements.txt" "$SOURCE/sdk_js/package-lock.json" | sha256sum | cut -c1-12)
if [ ! -d "$folder" ]; then
  scripts/prerequisites.sh s3-clients
  echo "installing S3 clients, once (about a minute)" >&2
  rm -rf "$folder.new" "$folder"
  mkdir -p "$folder.new/node"
  cp "$SOURCE/sdk_js/package.json" "$SOURCE/sdk_js/package-lock.json" "$folder.new/node"
  # No script of a package runs: what is needed comes in the packages.
  (cd "$folder.new/node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error >&2)
  # Where it stays: a virtual environment knows its own place.
  mv "$folder.new" "$folder"
  if ! { python3 -m venv "$folder/python" && "$folder/python/bin/pip" install --quiet --requirement "$SOURCE/requirements.txt" >&2; }; then
    rm -rf "$folder"
    die "boto3, pyarrow and the aws command line could not be installed"
  fi
fi
echo "$folder"
