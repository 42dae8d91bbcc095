package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// completions are the scripts that make a shell ask the program itself what comes next.
var completions = map[string]string{
	"bash": `_dsbatch() {
  local words=("${COMP_WORDS[@]:0:$COMP_CWORD}") current="${COMP_WORDS[COMP_CWORD]}"
  [[ "$current" == -* ]] && words+=("${current/#--/-}") # to the program -- ends the flags
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$current"))
}
complete -o bashdefault -o default -F _dsbatch dsbatch
`,
	"zsh": `#compdef dsbatch
_dsbatch() {
  local -a options
  if [[ "${words[-1]}" == -* ]]; then
    options=("${(@f)$(${words[@]:0:#words[@]-1} ${words[-1]/#--/-} --generate-bash-completion 2>/dev/null)}")
  else
    options=("${(@f)$(${words[@]:0:#words[@]-1} --generate-bash-completion 2>/dev/null)}")
  fi
  [[ -n "${options[1]}" ]] && _describe 'values' options || _files
}
compdef _dsbatch dsbatch
`,
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", ArgsUsage: "bash|zsh|fish", Usage: "print a shell's completion script: source <(dsbatch completion bash)",
		Action: func(c *cli.Context) error {
			shell, err := onlyArgument(c, "shell (bash, zsh or fish)")
			if err != nil {
				return err
			}
			script, ok := completions[shell]
			if shell == "fish" {
				if script, err = c.App.ToFishCompletion(); err != nil {
					return err
				}
				ok = true
			}
			if !ok {
				return usageErrorf("no completion for %q; bash, zsh and fish have one", shell)
			}
			_, err = fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}
