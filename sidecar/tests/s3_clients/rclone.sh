#!/usr/bin/env bash
# rclone.sh RCLONE FOLDER: what people do with rclone. A folder of files is synced to a bucket, changed, synced again and back;
# after each time rclone's own `check` compares both sides. The endpoint and the keys are in the environment.
set -euo pipefail
rclone=$1 work=$2

export RCLONE_CONFIG=$work/rclone.conf RCLONE_CONFIG_BRAINY_TYPE=s3 RCLONE_CONFIG_BRAINY_PROVIDER=Other \
  RCLONE_CONFIG_BRAINY_ENV_AUTH=true RCLONE_CONFIG_BRAINY_ENDPOINT=$AWS_ENDPOINT_URL_S3 RCLONE_CONFIG_BRAINY_REGION=$AWS_REGION
touch "$RCLONE_CONFIG"
# Small enough for parts.
options=(--s3-upload-cutoff 5M --s3-chunk-size 5M --retries 1 --low-level-retries "${AWS_MAX_ATTEMPTS:-3}" --stats 0 --log-level NOTICE)
there=brainy:rclone/files

files=$work/files
mkdir -p "$files/a folder/with+signs&more" "$files/ünïcode/🙂" "$files/many"
: >"$files/empty"
head -c 1048576 /dev/urandom >"$files/one value"
head -c 1048577 /dev/urandom >"$files/two pieces"
head -c 12582915 /dev/urandom >"$files/a folder/in parts"
echo 'percent' >"$files/a folder/100%25.txt"
echo 'hash' >"$files/a folder/with+signs&more/#1 = ?"
echo 'smile' >"$files/ünïcode/🙂/naïve.txt"
for number in $(seq 300); do echo "{\"number\": $number}" >"$files/many/$number.json"; done

is_the_same() { # is_the_same OPTION...: by sizes and checksums, or by the bytes
  "$rclone" check "$@" "${options[@]}" "$files" "$there"
}

"$rclone" sync "${options[@]}" "$files" "$there"
is_the_same
is_the_same --download

# The same size, another content; another time alone; less, more, elsewhere.
tr 'a-z' 'b-za' <"$files/a folder/100%25.txt" >"$work/changed" && mv "$work/changed" "$files/a folder/100%25.txt"
touch -d 2001-02-03 "$files/one value" "$files/a folder/in parts"
rm "$files"/many/1?.json
mv "$files/two pieces" "$files/many/moved"
echo 'new' >"$files/new"
"$rclone" sync "${options[@]}" --track-renames "$files" "$there"
is_the_same
is_the_same --download
listed=$("$rclone" lsjson "${options[@]}" --no-mimetype "$there")
grep -q '"Name":"one value".*"ModTime":"2001-02-03' <<<"$listed" || { echo "the time was not kept: $listed"; exit 1; }

"$rclone" sync "${options[@]}" "$there" "$work/back"
diff -r "$files" "$work/back"

# One that differs is found.
printf 'other' | "$rclone" rcat "${options[@]}" "$there/empty"
if is_the_same 2>/dev/null; then echo "a check does not see another content"; exit 1; fi

"$rclone" purge "${options[@]}" brainy:rclone
echo "rclone: sync and check as expected"
