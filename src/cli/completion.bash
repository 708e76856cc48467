# Ids and addresses have colons, and readline breaks words at them: what stands together on the line is put
# together again, and answers lose what readline has already.
_payctl() {
    local line=${COMP_LINE:0:COMP_POINT} word rest last=-1 at=0
    local -a joined=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD + 1}"; do
        rest=${line#"${line%%[![:space:]]*}"}
        if ((at == COMP_CWORD)); then word=$rest; fi
        if ((last > 0)) && [[ $rest == "$line" && ($word == :* || ${joined[last]} == *:) ]]; then
            joined[last]+=$word
        else
            joined+=("$word")
            last=$((last + 1))
        fi
        line=${rest#"$word"}
        at=$((at + 1))
    done
    local current=${joined[last]}
    local -a COMP_WORDS=("${joined[@]}")
    local COMP_CWORD=$last
    _clap_complete_payctl "$1" "$current" "$3"
    if [[ $COMP_WORDBREAKS == *:* && $current == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*:}"}"}")
    fi
}
