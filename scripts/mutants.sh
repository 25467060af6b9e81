#!/usr/bin/env bash
# mutants.sh [NAME...]: breaks a copy of the code on purpose, one mutant at a time, and runs the test that must notice; all
# mutants, or the named ones. Prints a table, and fails if one survives.
# mutants.sh --check: only whether all of them still apply.
# A mutant is a patch in the folder `mutants` of a crate; the lines before the patch say which pitfall it is, what it breaks, and
# which test of which package catches it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

FOLDERS=(operator/mutants sidecar/mutants sidecar/storage/mutants)
# Beside the everyday build: what is compiled from a mutant must never be taken for the real thing.
WORK=${CARGO_TARGET_DIR:-$ROOT/target}/mutants
TREE=$WORK/tree

all() { for folder in "${FOLDERS[@]}"; do for patch in "$folder"/*.patch; do basename "$patch" .patch; done; done; }

patch_of() { # patch_of NAME: its file
  local folder
  for folder in "${FOLDERS[@]}"; do
    if [ -e "$folder/$1.patch" ]; then echo "$folder/$1.patch"; return; fi
  done
  die "no such mutant: $1 (there are: $(all | tr '\n' ' '))"
}

field() { sed -nE "s/^$2: (.*)/\1/p;/^diff /q" "$(patch_of "$1")"; }

check() {
  local name what bad=0
  for name in $(all); do
    for what in Pitfall Breaks Package Caught-by; do
      [ -n "$(field "$name" "$what")" ] || { echo "$(patch_of "$name") does not say $what"; bad=1; }
    done
    git apply --check "$(patch_of "$name")" || { echo "$(patch_of "$name"): write it anew for today's code"; bad=1; }
  done
  return $bad
}

# A file that is there and is the same stays as it is: what was compiled from a mutant of it is older than it, and so is not taken for
# the real thing.
copy_tree() {
  local path
  mkdir -p "$TREE"
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' path; do
    if [ ! -e "$path" ] || cmp --silent "$path" "$TREE/$path"; then continue; fi
    mkdir -p "$TREE/$(dirname "$path")"
    cp "$path" "$TREE/$path"
  done
  # What is no longer there.
  (cd "$TREE" && find . -type f -print0) | while IFS= read -r -d '' path; do
    [ -e "$path" ] || rm "$TREE/$path"
  done
}

# Outside of any repository: inside one, paths would be taken as the repository's.
patch_tree() { GIT_CEILING_DIRECTORIES=$WORK git -C "$TREE" apply "$@"; }

# run_test NAME PACKAGE ARGUMENTS...: the output goes to a file. The seeds of the simulation are those of `make test`: it ends at
# the first that fails.
run_test() {
  local log=$WORK/$1.log
  shift
  (cd "$TREE" && CARGO_TARGET_DIR=$WORK/build cargo test --locked -p "$@") >"$log" 2>&1
}

judge() { # judge NAME: prints one line of the table
  local name=$1 result test
  read -ra test <<<"$(field "$name" Package) $(field "$name" Caught-by)"
  if ! patch_tree "$ROOT/$(patch_of "$name")" 2>"$WORK/$name.log"; then
    result="DOES NOT APPLY: write the patch anew for today's code"
  elif ! run_test "$name" "${test[@]}" --no-run; then
    result="DOES NOT COMPILE (log: $WORK/$name.log)"
  elif BRAINY_SIM_SEEDS=$SIM_SEEDS run_test "$name" "${test[@]}"; then
    result="SURVIVED: ${test[*]} did not notice"
  else
    result="caught by ${test[*]}"
  fi
  patch_tree --reverse "$ROOT/$(patch_of "$name")" 2>/dev/null || copy_tree
  printf '%-8s %-38s %-62s %s\n' "$(field "$name" Pitfall)" "$name" "$(field "$name" Breaks)" "$result"
  [[ "$result" = caught* ]]
}

# Each test must pass while nothing is broken: else it would notice everything.
sound() {
  local test
  while read -ra test; do
    printf '  %s\n' "${test[*]}"
    run_test unbroken "${test[@]}" || { printf '%s fails on the code as it is (log: %s)\n' "${test[*]}" "$WORK/unbroken.log" >&2; return 1; }
  done < <(for name in "$@"; do echo "$(field "$name" Package) $(field "$name" Caught-by)"; done | sort -u)
}

if [ "${1:-}" = --check ]; then check; exit; fi
# shellcheck disable=SC2046 # names have no spaces
[ $# -gt 0 ] || set -- $(all)
s3_server
mkdir -p "$WORK"
copy_tree
step "the tests on the code as it is" sound "$@"
printf '\n%-8s %-38s %-62s %s\n' pitfall mutant breaks result
failed=0
for name in "$@"; do judge "$name" || failed=$((failed + 1)); done
printf '\n%d mutants, %d not caught\n' $# "$failed"
[ "$failed" = 0 ]
