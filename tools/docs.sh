#!/usr/bin/env bash
# The documentation's site into build/docs/html: pages of modules, filters and roles by antsibull-docs, and the Markdown that is in the
# repository, by Sphinx. Every warning of either is an error. The argument is the environment of requirements/docs.txt; PATH has ansible-doc.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$(realpath "$1")/bin:$PATH
pages=build/docs/pages
rm -rf build/docs
# antsibull-docs wants a folder that nobody else can write to.
install -d -m 0755 "$pages"
antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs dependent --disallow-unknown-collection-refs .
antsibull-docs collection --use-current --fail-on-error --dest-dir "$pages" tf2x.serving
# Beside each other as in the repository, so that their links lead where they lead there.
git ls-files -z '*.md' docs/images LICENSES files/models/pets/accuracy.json | xargs -0 cp --parents --target-directory "$pages"
cp docs/docsite/index.rst "$pages"
sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs/docsite "$pages" build/docs/html
echo "docs: build/docs/html/index.html"
