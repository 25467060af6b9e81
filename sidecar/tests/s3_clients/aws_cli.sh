#!/usr/bin/env bash
# What people do with the aws command line, as it is published. The endpoint and the keys are in the environment; the first argument is
# the command, the second a folder to work in.
set -euo pipefail
aws=$1
cd "$2"

$aws s3 mb s3://cli
mkdir -p tree/sub
for number in $(seq 1 30); do echo "file $number" >"tree/$number.txt"; done
head -c 9000000 /dev/urandom >tree/sub/large.bin
$aws s3 sync --quiet tree s3://cli/tree
$aws s3 sync --quiet s3://cli/tree back
diff -r tree back
# Nothing has changed: nothing is to be done.
[ -z "$($aws s3 sync tree s3://cli/tree)" ]
[ "$($aws s3 ls s3://cli/tree/ | wc -l)" = 31 ]
[ "$($aws s3 ls --recursive s3://cli/ | wc -l)" = 31 ]
$aws s3 cp --quiet s3://cli/tree/sub/large.bin s3://cli/copy.bin
$aws s3 cp --quiet s3://cli/copy.bin copy.bin
cmp copy.bin tree/sub/large.bin
echo piped | $aws s3 cp - s3://cli/piped
[ "$($aws s3 cp s3://cli/piped -)" = piped ]
$aws s3 mv --quiet s3://cli/piped s3://cli/moved
if $aws s3api head-object --bucket cli --key piped 2>/dev/null; then exit 1; fi
$aws s3 rm --quiet --recursive s3://cli
$aws s3 rb s3://cli
echo "$($aws --version): as expected"
