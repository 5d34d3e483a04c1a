// trust-manager as its own command runs it, but for what would listen: its probes and metrics are always on all
// interfaces, and its webhook has nothing to say here, for the API server is not told of it.
package main

import (
	"flag"
	"log/slog"
	"os"

	trustapi "github.com/cert-manager/trust-manager/pkg/apis/trust/v1alpha1"
	"github.com/cert-manager/trust-manager/pkg/bundle"
	"github.com/cert-manager/trust-manager/pkg/bundle/controller"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// The flag -kubeconfig is controller-runtime's own.
func main() {
	options := controller.Options{}
	flag.StringVar(&options.Namespace, "trust-namespace", "cert-manager", "where the sources of bundles are")
	flag.Parse()
	log := logr.FromSlogHandler(slog.NewTextHandler(os.Stdout, nil))
	klog.SetLogger(log)
	ctrl.SetLogger(log)
	if err := run(options); err != nil {
		log.Error(err, "trust-manager ends")
		os.Exit(1)
	}
}

func run(options controller.Options) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(trustapi.AddToScheme(scheme))
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                 scheme,
		HealthProbeBindAddress: "0",
		Metrics:                server.Options{BindAddress: "0"},
		Cache:                  bundle.CacheOpts(options),
	})
	if err != nil {
		return err
	}
	until := ctrl.SetupSignalHandler()
	if err := bundle.SetupWithManager(until, manager, options); err != nil {
		return err
	}
	return manager.Start(until)
}
