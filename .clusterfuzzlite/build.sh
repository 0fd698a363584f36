#!/bin/bash -eu
# Builds every target into $OUT with its dictionary and its seed corpus, for OSS-Fuzz and ClusterFuzzLite.
cd "$SRC/local-daemon"
# The image's compiler and its flags in RUSTFLAGS belong together; the tree's own choice of a toolchain does not count here.
export RUSTUP_TOOLCHAIN="${RUSTUP_TOOLCHAIN:-nightly}"
cargo fuzz build -O --debug-assertions --features libfuzzer
programs=$(dirname "$(find fuzz/target target -path '*/release/record' -type f -executable -print -quit 2>/dev/null)")
for dictionary in fuzz/dictionaries/*.dict; do
  target=$(basename "$dictionary" .dict)
  cp "$programs/$target" "$OUT/"
  cp "$dictionary" "$OUT/"
  seeds=$(mktemp -d)
  tar -xzf "fuzz/corpus/$target.tar.gz" -C "$seeds"
  zip -jqr "$OUT/${target}_seed_corpus.zip" "$seeds" $([[ ! -d fuzz/cases/$target ]] || echo "fuzz/cases/$target")
done
