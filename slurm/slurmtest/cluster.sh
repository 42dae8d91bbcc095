#!/bin/bash
# A Slurm cluster on this one machine, for tests, until the standard input ends: as root, without systemd and cgroups.
#   cluster.sh FOLDER CPUS PORT...     a node of CPUS cores for each port after the first, which is the controller's
# It says "ready" when jobs can be queued; SLURM_CONF is then FOLDER/slurm.conf. Whatever ends this script, or the process
# that holds its input, takes the daemons with it; the folder is left.
set -uo pipefail
trap '' INT TERM HUP # the end of the input counts
dir=$1 cpus=$2 controller=$3
shift 3
nodes=$# host=$(hostname -s) shared=/dev/shm/$(basename "$dir")
ports=$(IFS=,; echo "$*")
export SLURM_CONF=$dir/slurm.conf

down() {
    jobs=$(timeout 5 squeue -h -o %A 2>/dev/null | sort -u)
    [ -z "$jobs" ] || timeout 5 scancel --signal=KILL --full $jobs 2>/dev/null
    [ -z "$jobs" ] || timeout 5 scancel $jobs 2>/dev/null
    for _ in $(seq 40); do [ -z "$(timeout 5 squeue -h -t RUNNING,COMPLETING -o %A 2>/dev/null)" ] && break; sleep 0.25; done
    for f in "$dir"/run/slurmd.*.pid "$dir"/run/slurmctld.pid "$dir"/run/munged.pid; do
        [ -f "$f" ] || continue
        p=$(cat "$f")
        kill "$p" 2>/dev/null
        for _ in $(seq 50); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$p" 2>/dev/null
    done
    rm -rf "$shared".n[0-9]*
}
trap down EXIT
fail() { echo "$1" >&2; tail -n 5 "$dir"/log/* >&2; exit 1; }

mkdir -p "$dir"/{state,log,run}
chmod 755 "$dir" # munged looks who else could write there

# A munge of its own: key, socket, nothing of the system's.
head -c 128 /dev/urandom >"$dir/munge.key"
chmod 400 "$dir/munge.key"
munged --key-file="$dir/munge.key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/run/munged.seed" || fail "munged does not start"

# The nodes are told apart by their ports, claim cores that need not exist, and have folders of their own: PMIx and Open
# MPI would else meet in /tmp and /dev/shm.
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
TmpFS=$dir/tmp.%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=$dir/task-prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$ports] CPUs=$cpus RealMemory=2048 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
cat >"$dir/task-prolog" <<PROLOG
#!/bin/sh
echo "export OMPI_MCA_btl_vader_backing_directory=$shared.\$SLURMD_NODENAME"
PROLOG
chmod 755 "$dir/task-prolog"

slurmctld -c || fail "slurmctld does not start"
for i in $(seq "$nodes"); do
    mkdir -p "$dir/spool.n$i" "$dir/tmp.n$i" "$shared.n$i"
    slurmd -N "n$i" || fail "slurmd does not start"
done
for _ in $(seq 60); do
    if [ "$(timeout 5 sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l)" = "$nodes" ]; then
        echo ready
        cat >/dev/null
        exit 0
    fi
    sleep 0.25
done
fail "the nodes do not come up"
