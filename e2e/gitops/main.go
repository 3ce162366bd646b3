// Says what Argo CD and Flux conclude from objects of Phoenix, with the code of their own.
//
//	gitops-verdicts VALUES.yaml < QUESTIONS > ANSWERS
//
// VALUES.yaml are values of Argo CD's Helm chart: health checks and actions are taken from their `configs.cm`, as Argo CD
// takes them from the ConfigMap argocd-cm. Questions and answers are JSON, one a line, in the same order.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"github.com/argoproj/gitops-engine/pkg/health"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

type question struct {
	Object json.RawMessage `json:"object"`
	// The action to carry out on it.
	Action string `json:"action,omitempty"`
	// What is in Git for it: whether Argo CD calls it OutOfSync. Absent, like Action: the verdicts are asked for.
	Wanted json.RawMessage `json:"wanted,omitempty"`
	// Whether it is an object of Argo CD's own, which may have no field that Argo CD does not know.
	Strict bool `json:"strict,omitempty"`
}

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type answer struct {
	ArgoCD *verdict `json:"argocd,omitempty"`
	Flux   *verdict `json:"flux,omitempty"`
	// Actions that are offered, by name: whether they are disabled.
	Actions []v1alpha1.ResourceAction `json:"actions,omitempty"`
	// The object as the action leaves it.
	Object *unstructured.Unstructured `json:"object,omitempty"`
	// The object as Argo CD would have it, where that is another one.
	Predicted json.RawMessage `json:"predicted,omitempty"`
	Error     string          `json:"error,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gitops-verdicts:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: gitops-verdicts VALUES.yaml < QUESTIONS")
	}
	vm, err := customizations(os.Args[1])
	if err != nil {
		return err
	}
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	answers := json.NewEncoder(out)
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		if err := answers.Encode(reply(vm, line)); err != nil {
			return err
		}
	}
}

// customizations reads the keys resource.customizations.TYPE.GROUP_KIND, as Argo CD's settings do.
func customizations(path string) (*lua.VM, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var values struct {
		Configs struct {
			CM map[string]string `json:"cm"`
		} `json:"configs"`
	}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, err
	}
	overrides := map[string]v1alpha1.ResourceOverride{}
	for key, value := range values.Configs.CM {
		parts := strings.SplitN(key, ".", 4)
		if len(parts) < 4 || parts[0] != "resource" || parts[1] != "customizations" {
			return nil, fmt.Errorf("%s is no customization", key)
		}
		kind := strings.Replace(parts[3], "_", "/", 1)
		override := overrides[kind]
		switch parts[2] {
		case "health":
			override.HealthLua = value
		case "actions":
			override.Actions = value
		default:
			return nil, fmt.Errorf("%s is neither health nor actions", key)
		}
		overrides[kind] = override
	}
	return &lua.VM{ResourceOverrides: overrides}, nil
}

func reply(vm *lua.VM, line []byte) answer {
	answer, err := consider(vm, line)
	if err != nil {
		answer.Error = err.Error()
	}
	return answer
}

func consider(vm *lua.VM, line []byte) (answer, error) {
	var asked question
	if err := json.Unmarshal(line, &asked); err != nil {
		return answer{}, err
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(asked.Object); err != nil {
		return answer{}, err
	}
	if asked.Strict {
		return answer{}, known(object.GetKind(), asked.Object)
	}
	if asked.Action != "" {
		return act(vm, object, asked.Action)
	}
	var found answer
	if asked.Wanted != nil {
		return compare(object, asked.Wanted)
	}
	judged, err := health.GetResourceHealth(object, lua.ResourceHealthOverrides(vm.ResourceOverrides))
	if err != nil {
		return answer{}, err
	}
	if judged != nil {
		found.ArgoCD = &verdict{string(judged.Status), judged.Message}
	}
	computed, err := status.Compute(object)
	if err != nil {
		return answer{}, err
	}
	found.Flux = &verdict{computed.Status.String(), computed.Message}
	scripts, err := vm.GetResourceActionDiscovery(object)
	if err != nil || len(scripts) == 0 {
		return found, err
	}
	found.Actions, err = vm.ExecuteResourceActionDiscovery(object, scripts)
	sort.Slice(found.Actions, func(i, j int) bool { return found.Actions[i].Name < found.Actions[j].Name })
	return found, err
}

func known(kind string, object []byte) error {
	kinds := map[string]any{"Application": &v1alpha1.Application{}, "ApplicationSet": &v1alpha1.ApplicationSet{}}
	into, found := kinds[kind]
	if !found {
		return fmt.Errorf("%s is no kind of Argo CD's", kind)
	}
	return yaml.UnmarshalStrict(object, into)
}

// compare does as Argo CD does by default: a three-way merge with what was applied last.
func compare(object *unstructured.Unstructured, wanted []byte) (answer, error) {
	target := &unstructured.Unstructured{}
	if err := target.UnmarshalJSON(wanted); err != nil {
		return answer{}, err
	}
	found, err := diff.Diff(target, object)
	if err != nil || !found.Modified {
		return answer{}, err
	}
	return answer{Predicted: found.PredictedLive}, nil
}

func act(vm *lua.VM, object *unstructured.Unstructured, name string) (answer, error) {
	action, err := vm.GetResourceAction(object, name)
	if err != nil {
		return answer{}, err
	}
	results, err := vm.ExecuteResourceAction(object, action.ActionLua, nil)
	if err != nil {
		return answer{}, err
	}
	if len(results) != 1 || results[0].K8SOperation != lua.PatchOperation {
		return answer{}, fmt.Errorf("%s is not one patch", name)
	}
	return answer{Object: results[0].UnstructuredObj}, nil
}
