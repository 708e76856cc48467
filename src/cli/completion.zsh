
# The first completion of a shell is what loads this file from $fpath, and wants an answer, too.
if [[ "${funcstack[1]}" == "_payctl" ]]; then
    _clap_dynamic_completer_payctl "$@"
fi
