#!/usr/bin/env bash
# Installs Cloudflare's runtime (workerd, with its R2 and its cache, as miniflare brings them) for the tests of the R2 backend,
# once for each content of package-lock.json, and prints the folder. Needs Node, and npm for the first time.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SOURCE=sidecar/storage/tests/r2/miniflare
folder=$BRAINY_CACHE/miniflare-$(sha256sum "$SOURCE/package-lock.json" | cut -c1-12)
if [ ! -d "$folder" ]; then
  scripts/prerequisites.sh node
  echo "installing miniflare, once (about a minute)" >&2
  rm -rf "$folder.new"
  mkdir -p "$folder.new"
  cp "$SOURCE/package.json" "$SOURCE/package-lock.json" "$folder.new"
  # No script of a package runs: what is needed comes in the packages.
  (cd "$folder.new" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error >&2)
  mv "$folder.new" "$folder"
fi
echo "$folder"
