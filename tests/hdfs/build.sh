#!/usr/bin/env bash
# build.sh - a real HDFS for the storage tests: Hadoop's jars by Maven, and Cluster.java around them; or a real HttpFS.
#
#   tests/hdfs/build.sh DIRECTORY          gets jars/ and classes/
#   tests/hdfs/build.sh DIRECTORY httpfs   gets jars/
#
# Needs a JDK of 17 or later and Maven. Does nothing, quickly, when all is there. About 120 MB come the first time,
# and 65 MB for HttpFS.
set -euo pipefail

directory=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"
what=${2:-hdfs}
inputs=(pom.xml Cluster.java log4j.properties build.sh)
[ "$what" = hdfs ] || inputs=(httpfs.xml build.sh)

for program in java javac mvn; do
    if ! command -v "$program" >/dev/null; then
        echo "$what: there is no $program: install a JDK (openjdk-17-jdk-headless) and maven" >&2
        exit 1
    fi
done
stamp=$(cat "${inputs[@]}" | sha256sum)
if [ "$(cat "$directory/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

echo "$what: fetching Hadoop's jars into $directory" >&2
mkdir -p "$directory"
work=$(mktemp -d "$directory/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mvn -q -B -f "${inputs[0]}" dependency:copy-dependencies -DoutputDirectory="$work/jars" >&2
mkdir "$work/classes"
if [ "$what" = hdfs ]; then
    javac -nowarn -cp "$work/jars/*" -d "$work/classes" Cluster.java
    cp log4j.properties "$work/classes/"
fi
rm -rf "$directory/jars" "$directory/classes" "$directory/stamp"
mv "$work/jars" "$work/classes" "$directory/"
echo "$stamp" >"$directory/stamp"
