#!/usr/bin/env bash
# One rank under a launcher that hides its ranks' exit codes (torchrun, deepspeed): `rank.sh PROGRAM...` runs it and
# writes the code where code_of_ranks in environment.sh looks for it.
"$@"
code=$?
echo "$code" >"$ADAPTIVE_FT_CODES/$RANK"
exit "$code"
