// Read a JSON list of objects and print, as a JSON list, what kstatus concludes from each of them.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apijson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	var objects []map[string]any
	// Unlike encoding/json it makes whole numbers int64, which kstatus expects of a generation.
	if err := apijson.Unmarshal(text, &objects); err != nil {
		log.Fatal(err)
	}
	verdicts := []verdict{}
	for _, object := range objects {
		result, err := status.Compute(&unstructured.Unstructured{Object: object})
		if err != nil {
			log.Fatal(err)
		}
		verdicts = append(verdicts, verdict{result.Status.String(), result.Message})
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		log.Fatal(err)
	}
}
