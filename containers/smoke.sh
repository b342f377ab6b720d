#!/usr/bin/env bash
# Try an image out: as a user it has never heard of, with a read-only root, and without a network.
#
#   containers/smoke.sh IMAGE        an image of docker or podman (CONTAINER_ENGINE, CONTAINER_OPTIONS choose)
#   containers/smoke.sh FILE.sif     an image of apptainer or singularity
#
# Ends with 0 if all is well, and with 77 (skipped) where there is no program to run it with.
set -euo pipefail

image=${1:?an image, or a .sif file}
user=${SMOKE_USER:-23456}

first_of() { for name; do command -v "$name" && return; done; return 1; }

case "$image" in
    *.sif)
        engine=$(first_of apptainer singularity) || { echo "smoke: no apptainer here: skipped"; exit 77; }
        digest=sha256:$(sha256sum "$image" | cut -d' ' -f1)
        inside() {
            "$engine" exec --cleanenv --containall --workdir "$place/work" --env "BIDSREP_IMAGE_DIGEST=$digest" \
                --bind "$place/data:/data" --bind "$place/out:/out" --bind "$place/work:/work" "$image" "$@"
        }
        ;;
    *)
        engine=${CONTAINER_ENGINE:-$(first_of docker podman)} || { echo "smoke: no docker here: skipped"; exit 77; }
        digest=sha256:$(printf %s "$image" | sha256sum | cut -d' ' -f1) # stands in for that of a registry
        inside() {
            local program=$1
            shift
            # shellcheck disable=SC2086 # several options
            "$engine" run --rm --network none --read-only --tmpfs /tmp:rw,mode=1777 --user "$user:$user" \
                --cap-drop ALL --env "BIDSREP_IMAGE_DIGEST=$digest" ${CONTAINER_OPTIONS:-} \
                --volume "$place/data:/data" --volume "$place/out:/out" --volume "$place/work:/work" \
                --entrypoint "$program" "$image" "$@"
        }
        ;;
esac

place=$(mktemp -d)
mkdir "$place/data" "$place/out" "$place/work"
chmod 777 "$place" "$place"/*
clean_up() { # what the other user has written, only that user may remove
    inside sh -c 'rm -rf /data/* /out/* /out/.[!.]* /work/* /work/.[!.]*' || true
    rm -rf "$place"
}
trap clean_up EXIT

step() { echo "smoke: $*"; inside "$@"; }

step bidsrep --version
step bidsrep-models list
step bidsrep-models verify
step bidsrep-demo --sloppy --subjects 1 /data/bids
sessions=("$place"/data/bids/sub-01/ses-*)
step bidsrep /data/bids /out participant group --model pepsi --sloppy --nprocs 1 --work-dir /work \
    --participant-label 01 --session-label "${sessions[0]##*ses-}"
step bidsrep-verify /out --bids-dir /data/bids

ls "$place"/out/sub-01.html "$place"/out/group.html "$place"/out/sub-01/ses-*/anat/*_desc-preproc_T1w.nii.gz
grep -rqF "$digest" "$place/out/prov" || { echo "smoke: the image's digest is not recorded" >&2; exit 1; }
echo "smoke: $image passed"
