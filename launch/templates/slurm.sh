# Each node runs one trainer; the trainer of the first node is the chief. Their exit statuses: 0
# finished; 2 a mistake of the user; 75 preempted, with a checkpoint; 143 preempted while Python
# started; anything else a crash.
trap : TERM  # the trainers handle it; this shell must outlive them
cd "$folder" || exit 2

worker() {
    unset TF_CONFIG
    if ((SLURM_JOB_NUM_NODES > 1)); then
        local task='{"type": "worker", "index": '$SLURM_PROCID'}'
        export TF_CONFIG='{"cluster": {"worker": ['$WORKERS']}, "task": '$task'}'
    fi
    exec "$@"
}
export -f worker

is_running() {  # false once the job is cancelled, or requeued by Slurm itself
    scontrol show job "$SLURM_JOB_ID" --oneliner | grep -q ' JobState=RUNNING '
}

for ((crashes = 0; ; crashes++)); do
    # Another port after a crash. All are below the ports that Linux assigns by itself.
    port=$((20000 + (SLURM_JOB_ID + 101 * crashes) % 10000))
    WORKERS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$port\"/" | paste -sd,)
    export WORKERS

    # After the first trainer has exited, the others have 300 seconds to write a checkpoint.
    srun --export=ALL --kill-on-bad-exit=0 --wait=300 "${srun_options[@]}" \
        bash -c 'worker "$@"' worker "${trainer[@]}"
    status=$?
    case $status in
    0 | 2) exit "$status" ;;
    75 | 143) break ;;
    esac
    if ((crashes >= max_restarts)) || ! is_running; then
        exit "$status"
    fi
    echo "the trainers crashed with status $status; restart $((crashes + 1)) of $max_restarts"
done

if is_running; then
    echo "preempted; back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit 75
