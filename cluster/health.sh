#!/bin/sh
# Whether a container of the image is healthy. A node that `ray start` has started answers for itself, and a head for the
# cluster's store too. A driver ends its container when it fails; until then it must be able to import the code.
if [ -e "${RAY_TMPDIR:-/tmp}/ray/ray_current_cluster" ]; then
    wget --quiet --tries=1 --timeout=5 --output-document=- http://localhost:52365/api/healthz || exit 1
else
    python -c 'import jobs, mmbatch'
fi
