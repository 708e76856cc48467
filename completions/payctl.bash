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

_clap_complete_payctl() {
    local IFS=$'\013'
    local _CLAP_COMPLETE_INDEX=${COMP_CWORD}
    local _CLAP_COMPLETE_COMP_TYPE=${COMP_TYPE}
    if compopt +o nospace 2> /dev/null; then
        local _CLAP_COMPLETE_SPACE=false
    else
        local _CLAP_COMPLETE_SPACE=true
    fi
    local words=("${COMP_WORDS[@]}")
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        words[COMP_CWORD]="$2"
    fi
    COMPREPLY=( $( \
        _CLAP_IFS="$IFS" \
        _CLAP_COMPLETE_INDEX="$_CLAP_COMPLETE_INDEX" \
        _CLAP_COMPLETE_COMP_TYPE="$_CLAP_COMPLETE_COMP_TYPE" \
        _CLAP_COMPLETE_SPACE="$_CLAP_COMPLETE_SPACE" \
        COMPLETE="bash" \
        "payctl" -- "${words[@]}" \
    ) )
    if [[ $? != 0 ]]; then
        unset COMPREPLY
    elif [[ $_CLAP_COMPLETE_SPACE == false ]] && [[ "${COMPREPLY-}" =~ [=/:]$ ]]; then
        compopt -o nospace
    fi
}
if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -o nospace -o bashdefault -o nosort -F _payctl payctl
else
    complete -o nospace -o bashdefault -F _payctl payctl
fi

